"""Parts of labelled image sets: what is trained on, the labelled bank, the images to classify."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.decode import decode_image
from common.data.image.files import LabelledFiles
from common.data.image.labelled import LabelledPixels, hold_out, load_cifar10, load_pixels
from common.data.image.sources import CachedImages, ImageFiles, ImageTransform
from common.data.image.synthetic import synthetic_pairs

Part = Literal["train", "bank", "test"]  # bank: labelled images that probes are fitted on
DEV_PER_CLASS = 100  # bundled training images that are the development split
SYNTHETIC_SAMPLES, SYNTHETIC_CLASSES = 256, 8
NUM_IMAGES = {
    "cifar10": 50000,
    "cifar100": 50000,
    "stl10": 105000,
    "imagenet": 1281167,
    "imagenet100": 126689,
    "tiny_imagenet": 100000,
    "bundled": 9000,
    "synthetic": SYNTHETIC_SAMPLES,
}
NUM_CLASSES = {
    "cifar10": 10,
    "cifar100": 100,
    "stl10": 10,
    "imagenet": 1000,
    "imagenet100": 100,
    "tiny_imagenet": 200,
    "bundled": 10,
    "synthetic": SYNTHETIC_CLASSES,
}


@dataclass(frozen=True)
class ImagePart:
    """One part of a set, in memory or as files."""

    data: LabelledPixels | LabelledFiles

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self.data.labels

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the labels.

        Raises:
            UserError: the set has none.
        """
        if not self.data.class_names:
            raise UserError("the set has no class names")
        return self.data.class_names

    def source(self, transform: ImageTransform) -> CachedImages | ImageFiles:
        """Transformed images by index."""
        if isinstance(self.data, LabelledPixels):
            return CachedImages(self.data.images, transform)
        return ImageFiles(self.data.path, len(self.data.paths), transform)

    def picture(self, index: int) -> Any:
        """PIL image for a gallery."""
        if isinstance(self.data, LabelledPixels):
            return F.to_pil_image(self.data.images[index])
        return F.resize(decode_image(self.data.path(index)).convert("RGB"), [96])


class EvalBatch(TypedDict):
    """Images with labels."""

    images: Tensor  # (B, 3, S, S) float32
    labels: Tensor  # (B,) int64


class EvalImages(Dataset[dict[str, Any] | None]):
    """Images with labels one by one, for validation while training.

    An unreadable one is counted and left out of its batch.

    Args:
        part: what is read.
        transform: evaluation transform.
    """

    def __init__(self, part: ImagePart, transform: ImageTransform) -> None:
        self.labels, self.source = part.labels, part.source(transform)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        """One sample, or None if its image cannot be read."""
        image = self.source.one(index)
        return None if image is None else {"images": image, "labels": self.labels[index]}

    def collate(self, samples: list[dict[str, Any] | None]) -> EvalBatch:
        """Batch of the readable samples.

        Raises:
            UserError: there is none.
        """
        readable = [sample for sample in samples if sample is not None]
        if not readable:
            raise UserError(f"no image of a validation batch of {len(samples)} can be read")
        batch: EvalBatch = default_collate(readable)
        return batch


def benchmark_pixels(
    source: str,
    root: str | None,
    part: Part,
    *,
    dev: bool = False,
    image_size: int = 32,
    num_classes: int = SYNTHETIC_CLASSES,
) -> LabelledPixels:
    """A part of a set that fits into memory.

    Args:
        source: ``synthetic``, ``bundled`` (CIFAR-10 images of the repository) or a name that
            `load_pixels` knows; ``stl10`` trains on its unlabelled images.
        root: ``cfg.data.root``.
        part: which one; train and bank are the same images but for ``stl10``.
        dev: the test part of ``bundled`` is its development split.
        image_size: of ``synthetic``.
        num_classes: of ``synthetic``.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    if source == "synthetic":
        pairs = synthetic_pairs(
            2 * SYNTHETIC_SAMPLES, num_classes=num_classes, image_size=image_size
        )
        rows = torch.arange(SYNTHETIC_SAMPLES) + (SYNTHETIC_SAMPLES if part == "test" else 0)
        return LabelledPixels(pairs.images, pairs.labels, pairs.class_names).rows(rows)
    if source == "bundled":
        fit, held_out = hold_out(load_cifar10(root, "train"), DEV_PER_CLASS)
        if part != "test":
            return fit
        return held_out if dev else load_cifar10(root, "test")
    if source == "stl10" and part == "train":
        return load_pixels(source, root, "unlabelled")
    return load_pixels(source, root, "test" if part == "test" else "train")
