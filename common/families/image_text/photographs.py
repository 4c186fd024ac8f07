"""Bundled photographs (CIFAR-10) with captions from templates."""

from torch import Tensor

from common.data.image.labelled import LabelledPixels, balanced_subset, hold_out, load_cifar10

CLASSES = ("airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEMPLATES = (
    "a photo of a {}.",
    "a {}.",
    "this is a {}",
    "a blurry picture of the {}.",
    "a small image with a {}",
    "photo: {}",
)
# sentences that no caption is made from
UNSEEN_PHOTO_TEMPLATES = (
    "a snapshot of the {}.",
    "there is a {} in front of the camera.",
    "my {}.",
    "what you see is a {}.",
)
DEV_PER_CLASS = 200  # the last ones of each class of the training part


def photographs(
    root: str | None, split: str, limit: int | None, size: int
) -> tuple[Tensor, Tensor]:
    """Images (N, 3, size, size) uint8 of CIFAR-10 and their labels (N,).

    Args:
        root: ``cfg.data.root``.
        split: train or test, all of it.
        limit: number of images, equally many of each class, the first ones.
        size: height and width in pixels.
    """
    part = load_cifar10(root, split, size=size, limit=limit)
    return part.images, part.labels


def photographs_to_train(root: str | None, count: int, seed: int, size: int) -> LabelledPixels:
    """`count` photographs drawn by the seed, none of them a development image."""
    rest, _ = hold_out(load_cifar10(root, "train", size=size), DEV_PER_CLASS)
    return balanced_subset(rest, count, seed)


def photographs_to_judge(root: str | None, split: str, size: int) -> LabelledPixels:
    """The 2,000 test images, or the 2,000 development images of the training part.

    Args:
        root: ``cfg.data.root``.
        split: test or dev.
        size: height and width in pixels.
    """
    if split == "test":
        return load_cifar10(root, "test", size=size)
    return hold_out(load_cifar10(root, "train", size=size), DEV_PER_CLASS)[1]
