"""Images of DCL: two training views, and the labelled sets that features are judged on."""

from common.data.image.parts import ImagePart, Part
from common.data.image.simclr import SimCLRTransform
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from common.families.images import data as images
from projects.dcl.config import Config, DclData
from projects.dcl.views import TwoViews


def train_transform(cfg: DclData) -> SimCLRTransform:
    """SimCLR's augmentation with the config's strengths."""
    return images.simclr_transform(cfg, blur_prob=cfg.blur_prob)


def image_part(cfg: Config, part: Part) -> ImagePart:
    """Training images, the labelled bank, or the images that are classified.

    A limited training set is also the bank.

    Raises:
        UserError: files are missing; the message names layout and source. Or ImageNet's two folders
            hold other classes.
    """
    return images.image_part(cfg, part, None if part == "test" else images.limited(cfg))


def build_data(cfg: Config) -> ContrastiveData:
    """Two views of the training images; bank and queries for validation if the config asks."""
    train = image_part(cfg, "train").source(train_transform(cfg.data))
    return images.image_data(
        cfg, TwoViews(train, seed=cfg.seed), lambda part: image_part(cfg, part)
    )


def num_samples(cfg: Config) -> int:
    """Training images per epoch, also of a set that is not on disk."""
    return images.num_images(cfg.data)


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    weights = images.weight_requirements(cfg.model.pretrained)
    return weights + images.image_requirements(cfg.data.source, cfg.data.root)
