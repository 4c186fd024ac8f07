"""Two training views of every image, and the labelled sets that features are judged on."""

from arena.images.config import Config
from common.data.image.multi_view import MultiViews, ViewStack
from common.data.image.parts import ImagePart, Part
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from common.families.images import data as images


def image_part(cfg: Config, part: Part) -> ImagePart:
    """Training images, the labelled bank, or the images that are classified.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    return images.image_part(cfg, part, None if part == "test" else images.limited(cfg))


def build_data(cfg: Config) -> ContrastiveData:
    """Loaders of the views; bank and queries for validation if the config asks."""
    views = ViewStack((images.simclr_transform(cfg.data),) * 2)
    train = MultiViews(image_part(cfg, "train").source(views), seed=cfg.seed)
    return images.image_data(cfg, train, lambda part: image_part(cfg, part))


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    weights = images.weight_requirements(cfg.model.pretrained)
    return weights + images.image_requirements(cfg.data.source, cfg.data.root)
