"""Images of DCL: training views, and the labelled sets that features are judged on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.image_folders import IMAGE_SETS
from common.data.images import CachedImages, EvalTransform, ImageFiles, ImageSource, ImageTransform
from common.data.labelled_files import LabelledFiles, imagenet_files
from common.data.labelled_images import (
    IN_MEMORY,
    LabelledPixels,
    balanced_subset,
    hold_out,
    load_cifar10,
    load_pixels,
    resized,
)
from common.data.lookup import BUNDLED, data_root
from common.data.module import ContrastiveData
from common.data.simclr import SimCLRTransform
from common.data.synthetic import synthetic_pairs
from common.data.views import TwoViews
from common.engine import Requirement
from projects.dcl.config import Config, DclData

Part = Literal["train", "bank", "test"]  # bank: labelled images that neighbours are taken from
DEV_PER_CLASS = 100
SYNTHETIC_SAMPLES = 256
SIZES = {"cifar10": 50000, "cifar100": 50000, "stl10": 105000, "imagenet": 1281167,
         "imagenet100": 126689, "bundled": 10000, "synthetic": SYNTHETIC_SAMPLES}  # fmt: skip


@dataclass(frozen=True)
class ImagePart:
    """One part of a set, in memory or as files."""

    data: LabelledPixels | LabelledFiles

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self.data.labels

    def source(self, transform: ImageTransform) -> ImageSource:
        """Transformed images by index."""
        if isinstance(self.data, LabelledPixels):
            return CachedImages(self.data.images, transform)
        return ImageFiles(self.data.path, len(self.data.paths), transform)

    def picture(self, index: int) -> Any:
        """PIL image for a gallery."""
        if isinstance(self.data, LabelledPixels):
            return F.to_pil_image(self.data.images[index])
        from PIL import Image

        return F.resize(Image.open(self.data.path(index)).convert("RGB"), [96])


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
    if data.source in ("imagenet", "imagenet100"):
        split = "val" if part == "test" else "train"
        return ImagePart(imagenet_files(data.root, split, subset=data.source == "imagenet100"))
    pixels = _pixels(cfg, part)
    if part != "test" and data.limit is not None:
        pixels = balanced_subset(pixels, data.limit, cfg.seed)
    size = data.cache_size or data.image_size
    return ImagePart(pixels._replace(images=resized(pixels.images, size)))


def _pixels(cfg: Config, part: Part) -> LabelledPixels:
    source, root = cfg.data.source, cfg.data.root
    if source == "synthetic":
        pairs = synthetic_pairs(2 * SYNTHETIC_SAMPLES, image_size=cfg.data.image_size)
        rows = torch.arange(SYNTHETIC_SAMPLES) + (SYNTHETIC_SAMPLES if part == "test" else 0)
        return LabelledPixels(pairs.images, pairs.labels, pairs.class_names).rows(rows)
    if source == "bundled":
        fit, dev = hold_out(load_cifar10(root, "train"), DEV_PER_CLASS)
        if part != "test":
            return fit
        return dev if cfg.eval.split == "dev" else load_cifar10(root, "test")
    if source == "stl10" and part == "train":
        return load_pixels(source, root, "unlabelled")
    return load_pixels(source, root, "test" if part == "test" else "train")


class EvalImages(Dataset[dict[str, Any]]):
    """Images with labels one by one, for validation while training.

    Args:
        part: what is read.
        transform: evaluation transform.
    """

    def __init__(self, part: ImagePart, transform: ImageTransform) -> None:
        self.labels, self.source = part.labels, part.source(transform)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        images, _ = self.source.load([index])
        return {"images": images[0], "labels": self.labels[index]}


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
    return cfg.data.limit or SIZES[cfg.data.source] - (
        10 * DEV_PER_CLASS if cfg.data.source == "bundled" else 0
    )


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    source = cfg.data.source
    if source == "synthetic":
        return ()
    if source == "bundled":
        path = BUNDLED / "cifar10"
        return (Requirement("data: cifar10 (bundled)", "data/cifar10", path.exists()),)
    spec = IMAGE_SETS[source if source in IN_MEMORY else "imagenet"]
    folder: Path = data_root(cfg.data.root) / spec.folder
    return (Requirement(f"data: {source}", str(folder), folder.exists(), spec.source),)


def class_names(part: ImagePart) -> list[str]:
    """Names in the order of the labels.

    Raises:
        UserError: the set has none.
    """
    if not part.data.class_names:
        raise UserError("the set has no class names")
    return part.data.class_names


def _channels(values: tuple[float, float, float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]
