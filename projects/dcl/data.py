"""Images of DCL: training views, and the labelled sets that features are judged on."""

from typing import Any

from torch.utils.data import Dataset

from common.data.image.files import FILE_SETS, image_files, source_of
from common.data.image.labelled import balanced_subset, resized
from common.data.image.parts import (
    NUM_IMAGES,
    EvalImages,
    ImagePart,
    Part,
    benchmark_pixels,
)
from common.data.image.simclr import SimCLRTransform
from common.data.image.sources import EvalTransform
from common.data.image.views import TwoViews
from common.data.lookup import BUNDLED, data_root
from common.data.module import ContrastiveData
from common.engine.experiment import Requirement
from projects.dcl.config import Config, DclData


def train_transform(cfg: DclData) -> SimCLRTransform:
    """SimCLR's augmentation with the config's strengths."""
    return SimCLRTransform(
        cfg.image_size, scale=(cfg.crop_scale[0], cfg.crop_scale[1]),
        jitter=(cfg.jitter[0], cfg.jitter[1], cfg.jitter[2], cfg.jitter[3]),
        jitter_prob=cfg.jitter_prob, grey_prob=cfg.grey_prob, blur_prob=cfg.blur_prob,
        mean=_channels(cfg.mean), std=_channels(cfg.std),
    )  # fmt: skip


def eval_transform(cfg: DclData) -> EvalTransform:
    """Resize and centre crop."""
    return EvalTransform(cfg.image_size, mean=_channels(cfg.mean), std=_channels(cfg.std))


def image_part(cfg: Config, part: Part) -> ImagePart:
    """Training images, the labelled bank, or the images that are classified.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    data = cfg.data
    if data.source in FILE_SETS:
        return ImagePart(image_files(data.source, data.root, "val" if part == "test" else "train"))
    pixels = benchmark_pixels(
        data.source, data.root, part, dev=cfg.eval.split == "dev", image_size=data.image_size
    )
    if part != "test" and data.limit is not None:
        pixels = balanced_subset(pixels, data.limit, cfg.seed)
    size = data.cache_size or data.image_size
    return ImagePart(pixels._replace(images=resized(pixels.images, size)))


def build_data(cfg: Config) -> ContrastiveData:
    """Two views of the training images; bank and queries for validation if the config asks."""
    train = image_part(cfg, "train")
    val: dict[str, Dataset[Any]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        transform = eval_transform(cfg.data)
        val["bank"] = EvalImages(image_part(cfg, "bank"), transform)
        val["test"] = EvalImages(image_part(cfg, "test"), transform)
    return ContrastiveData(
        TwoViews(train.source(train_transform(cfg.data)), seed=cfg.seed),
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
    )


def num_samples(cfg: Config) -> int:
    """Training images per epoch, also of a set that is not on disk."""
    return cfg.data.limit or NUM_IMAGES[cfg.data.source]


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    source = cfg.data.source
    if source == "synthetic":
        return ()
    if source == "bundled":
        path = BUNDLED / "cifar10"
        return (Requirement("data: cifar10 (bundled)", "data/cifar10", path.exists()),)
    name, origin = source_of(source)
    folder = data_root(cfg.data.root) / name
    return (Requirement(f"data: {source}", str(folder), folder.exists(), origin),)


def _channels(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]
