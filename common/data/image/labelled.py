"""Labelled image sets held in memory as one uint8 tensor, for self-supervised training and probes.

Sets that do not fit into memory are read file by file (`common.data.image.files`).
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from common.config import UserError, nearest
from common.data.image.benchmarks import IMAGE_SETS, labels_of
from common.data.image.class_names import readable
from common.data.lookup import bundled, data_root, require
from common.data.packed import PackedImages
from common.data.samplers import sample_rng

IN_MEMORY = ("cifar10", "cifar100", "stl10")
SUBSET_STREAM = 22


class LabelledPixels(NamedTuple):
    """Images with their classes.

    Attributes:
        images: (N, 3, S, S) uint8; shared between callers, never changed in place.
        labels: (N,) int64 in [0, C), or -1 where a set has unlabelled images.
        class_names: C names.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]

    def rows(self, index: Tensor) -> "LabelledPixels":
        """The given rows, (K,) int64."""
        return LabelledPixels(self.images[index], self.labels[index], self.class_names)


def load_cifar10(
    root: str | None,
    split: str,
    *,
    size: int | None = None,
    limit: int | None = None,
    seed: int | None = None,
) -> LabelledPixels:
    """The bundled part of CIFAR-10: 10,000 training and 2,000 test images, classes balanced.

    Args:
        root: ``cfg.data.root``.
        split: ``train`` or ``test``; tune on a part of ``train`` (see `hold_out`).
        size: height and width in pixels; None keeps 32.
        limit: number of images, equally many of each class; None takes all.
        seed: draws which ones `limit` keeps; None takes the first ones.

    Raises:
        UserError: unknown split, or a `limit` that does not fit.
    """
    if split not in ("train", "test"):
        raise UserError(f"cifar10 has no split '{split}'{nearest(split, ('train', 'test'))}")
    path = bundled(f"cifar10/{split}.npz", root)
    data = _decode(path, size or 32, path.stat().st_mtime_ns)
    return data if limit is None else balanced_subset(data, limit, seed)


def load_pixels(
    name: str, root: str | None, split: str, *, size: int | None = None
) -> LabelledPixels:
    """A full set in its official layout, read by torchvision.

    Args:
        name: cifar10, cifar100 or stl10.
        root: ``cfg.data.root``.
        split: ``train`` or ``test``; for stl10 also ``unlabelled`` (the 100,000 images without
            labels and the 5,000 training images, as self-supervised methods use them).
        size: height and width in pixels; None keeps the set's own.

    Raises:
        UserError: unknown name or split, or missing files.
    """
    from torchvision import datasets

    if name not in IN_MEMORY:
        raise UserError(f"no set '{name}' is held in memory{nearest(name, IN_MEMORY)}")
    splits = ("train", "test", "unlabelled") if name == "stl10" else ("train", "test")
    if split not in splits:
        raise UserError(f"{name} has no split '{split}'{nearest(split, splits)}")
    folder, spec = data_root(root), IMAGE_SETS[name]
    require(
        folder / spec.folder,
        what=f"image set '{name}'",
        layout=spec.layout,
        source=spec.source,
        size=spec.size,
    )
    data: Any
    try:
        if name == "stl10":
            parts = "train+unlabeled" if split == "unlabelled" else split
            data = datasets.STL10(str(folder), split=parts)
        else:
            reader = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
            data = reader(str(folder), train=split == "train")
    except (RuntimeError, OSError) as error:
        raise UserError(f"image set '{name}' in {folder} is incomplete: {error}") from error
    images = torch.from_numpy(np.ascontiguousarray(data.data))
    images = images if name == "stl10" else images.permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(labels_of(data))
    return LabelledPixels(resized(images, size), labels, [readable(c) for c in data.classes])


def balanced_subset(data: LabelledPixels, limit: int, seed: int | None = None) -> LabelledPixels:
    """Equally many images of each class, in the order of the data.

    Args:
        data: the whole set.
        limit: number of images, a multiple of the number of classes.
        seed: draws which ones; None takes the first of each class.

    Raises:
        UserError: `limit` is not a multiple of the classes, or larger than the set allows.
    """
    classes = len(data.class_names)
    members = [(data.labels == c).nonzero()[:, 0] for c in range(classes)]
    each = limit // classes
    if limit < classes or limit % classes or each > min(map(len, members)):
        raise UserError(
            f"limit={limit}: give a multiple of {classes} (the classes), at most "
            f"{classes * min(map(len, members))}"
        )
    if seed is not None:
        rng = sample_rng(seed, 0, 0, SUBSET_STREAM)
        members = [rows[torch.from_numpy(rng.permutation(len(rows)))] for rows in members]
    return data.rows(torch.cat([rows[:each] for rows in members]).sort().values)


def hold_out(data: LabelledPixels, per_class: int) -> tuple[LabelledPixels, LabelledPixels]:
    """Split off a development part: the last `per_class` images of each class.

    Returns:
        The rest, and the held-out images; each in the order of the data.

    Raises:
        UserError: a class has no more images than that.
    """
    held = torch.zeros(len(data.labels), dtype=torch.bool)
    for c in range(len(data.class_names)):
        members = (data.labels == c).nonzero()[:, 0]
        if not 0 < per_class < len(members):
            raise UserError(
                f"cannot hold out {per_class} of the {len(members)} '{data.class_names[c]}' images"
            )
        held[members[-per_class:]] = True
    return data.rows((~held).nonzero()[:, 0]), data.rows(held.nonzero()[:, 0])


def resized(images: Tensor, size: int | None) -> Tensor:
    """(N, 3, H, W) uint8 -> (N, 3, size, size), bilinear with antialiasing; None keeps them."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    parts = [F.resize(part, [size, size], antialias=True) for part in torch.split(images, 4096)]
    return torch.cat(parts)


@lru_cache(maxsize=4)
@lru_cache(maxsize=2)  # a run asks for training, development and bank part one after another
def _decode(path: Path, size: int, modified: int) -> LabelledPixels:
    packed = PackedImages(path)
    decoded = packed.decode(32)
    labels = torch.from_numpy(packed.array("labels").astype(np.int64))[decoded.indices]
    names = [str(name) for name in packed.array("class_names")]
    return LabelledPixels(resized(decoded.images, size), labels, names)
