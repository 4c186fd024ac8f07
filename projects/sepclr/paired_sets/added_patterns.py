"""Pairs of image sets in memory whose targets are backgrounds with a pattern added.

CIFAR with digits, digit grids with dSprites, and a synthetic pair that needs no files.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.damage import ERRORS
from common.data.image.labelled import (
    LabelledPixels,
    balanced_subset,
    hold_out,
    load_cifar10,
    load_pixels,
    resized,
)
from common.data.image.synthetic import synthetic_pairs
from common.data.lookup import data_root, require
from common.data.samplers import sample_rng
from projects.sepclr.paired_sets.pairs import PixelStore, SetPair

_DRAW_STREAM = 32
_HELD_DIGITS = 300  # scikit-learn digits of the test part, and of the development part
_DEV_PER_CLASS = 200
_DIGIT_NAMES = [str(d) for d in range(10)]
GRID_DIGITS = (1, 3, 2, 4)  # row by row: 1 and 3 on top, 2 and 4 below
SPRITE_FACTORS = ("shape", "scale", "orientation", "x", "y")
SPRITE_FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"


def blended(images: Tensor, patterns: Tensor, target: Tensor) -> Tensor:
    """Half the image, plus half the pattern on targets.

    Args:
        images: (N, 3, S, S) uint8.
        patterns: (T, 1 or 3, S, S) uint8, one for each target in order.
        target: (N,) bool with T True entries.

    Returns:
        (N, 3, S, S) uint8, values of half a step rounded down.
    """
    mixed = images // 2
    mixed[target] = ((images[target].short() + patterns.short()) // 2).byte()
    return mixed


def synthetic_set_pair(num_samples: int, *, image_size: int, first: int = 0) -> SetPair:
    """Smooth class patterns; targets get a bright square in one of four corners.

    Args:
        num_samples: number of samples, every other one a target.
        image_size: height and width in pixels.
        first: number of the first sample, to draw disjoint parts.
    """
    pairs = synthetic_pairs(first + num_samples, num_classes=8, image_size=image_size)
    images, labels = pairs.images[first:], pairs.labels[first:]
    index = torch.arange(num_samples)
    target, corner = index % 2 == 1, (index // 8) % 4
    patterns = torch.zeros(4, 1, image_size, image_size, dtype=torch.uint8)
    side = image_size // 2
    for c in range(4):
        top, left = side * (c // 2), side * (c % 2)
        patterns[c, :, top : top + side, left : left + side] = 255
    return SetPair(
        PixelStore(blended(images, patterns[corner[target]], target)),
        target,
        {"corner": torch.where(target, corner, -1)},
        {"object": labels},
        {"object": pairs.class_names, "corner": ["top left", "top right", "low left", "low right"]},
    )


def small_digits(part: str) -> tuple[Tensor, Tensor]:
    """The 8x8 digits that scikit-learn ships: (N, 1, 8, 8) uint8 and labels (N,).

    The last 300 of the 1,797 are the test part, the 300 before them the development part (the
    file is ordered by writer).

    Args:
        part: train, dev or test.
    """
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = torch.from_numpy(data.images * (255 / 16)).round().byte()[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    end = len(labels) - _HELD_DIGITS
    rows = {
        "train": slice(0, end - _HELD_DIGITS),
        "dev": slice(end - _HELD_DIGITS, end),
        "test": slice(end, None),
    }[part]
    return images[rows], labels[rows]


def cifar_digits(
    root: str | None, part: str, *, num_samples: int, size: int, seed: int | None = None
) -> SetPair:
    """Bundled CIFAR-10 images; a small digit is added to every other one.

    Args:
        root: ``cfg.data.root``.
        part: train, dev (held-out training images) or test.
        num_samples: number of images, balanced over the CIFAR classes.
        size: height and width in pixels.
        seed: draws images, targets and digits; None takes a fixed draw.

    Raises:
        UserError: there are fewer images.
    """
    images = load_cifar10(root, "test" if part == "test" else "train")
    if part != "test":
        images = hold_out(images, _DEV_PER_CLASS)[part == "dev"]
    images = balanced_subset(images, num_samples, seed)
    digits, digit_labels = small_digits(part)
    rng = sample_rng(seed or 0, 0, 0, _DRAW_STREAM)
    # Targets are half of each class, so that the class does not tell the sets apart.
    target = torch.zeros(num_samples, dtype=torch.bool)
    for c in range(len(images.class_names)):
        members = (images.labels == c).nonzero()[:, 0]
        drawn = torch.from_numpy(rng.permutation(len(members)))[: len(members) // 2]
        target[members[drawn]] = True
    rounds = -(-int(target.sum()) // len(digits))
    order = np.concatenate([rng.permutation(len(digits)) for _ in range(rounds)])
    chosen = torch.from_numpy(order[: int(target.sum())])
    return _with_digits(
        images._replace(images=resized(images.images, size)),
        resized(digits[chosen], size),
        digit_labels[chosen],
        target,
    )


def cifar_mnist(root: str | None, part: str) -> SetPair:
    """CIFAR-10; image i of the second half gets MNIST digit i, padded to 32 px.

    The training part has 50,000 images, the test part the first 1,000 of the test files.

    Args:
        root: ``cfg.data.root``.
        part: train or test.

    Raises:
        UserError: CIFAR-10 or MNIST is missing.
    """
    images = load_pixels("cifar10", root, part)
    digits, labels = mnist(root, part)
    total = min(len(images.labels), len(labels), 1000 if part == "test" else 50_000)
    index = torch.arange(total)
    target = index >= total // 2
    padded = torch.nn.functional.pad(digits[index[target]], (2, 2, 2, 2))
    return _with_digits(images.rows(index), padded, labels[index[target]], target)


def _with_digits(
    images: LabelledPixels, digits: Tensor, digit_labels: Tensor, target: Tensor
) -> SetPair:
    labels = torch.full((len(target),), -1)
    labels[target] = digit_labels
    return SetPair(
        PixelStore(blended(images.images, digits, target)),
        target,
        {"digit": labels},
        {"object": images.labels},
        {"object": images.class_names, "digit": _DIGIT_NAMES},
    )


def mnist(root: str | None, part: str) -> tuple[Tensor, Tensor]:
    """MNIST in the layout of torchvision: (N, 1, 28, 28) uint8 and labels (N,).

    Args:
        root: ``cfg.data.root``.
        part: train or test.

    Raises:
        UserError: files are missing.
    """
    from torchvision import datasets

    folder = data_root(root)
    layout = "MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
    require(
        folder / "MNIST/raw",
        what="MNIST",
        layout=layout,
        source="https://yann.lecun.com/exdb/mnist or torchvision",
        size="12 MB",
    )
    try:
        data = datasets.MNIST(str(folder), train=part == "train")
    except (RuntimeError, OSError) as error:
        raise UserError(f"MNIST in {folder} is incomplete: {error}; layout {layout}") from error
    return data.data[:, None], data.targets


def sprites_on_digits(root: str | None, part: str, *, num_samples: int) -> SetPair:
    """A 64-px grid of the digits 1 to 4; targets have a white dSprite on top.

    Factors of the sprite are scaled to [0, 1]; its rotation is limited to 45 degrees.

    Args:
        root: ``cfg.data.root``.
        part: train or test, which draw from the parts of MNIST and from disjoint sprites.
        num_samples: number of images; the second half are targets.

    Raises:
        UserError: files are missing.
    """
    digits, labels = mnist(root, part)
    sprites, latents = _sprites(root)
    rng = sample_rng(0, 0, 0 if part == "train" else 1, _DRAW_STREAM)
    grid = torch.zeros(num_samples, 1, 64, 64, dtype=torch.uint8)
    for cell, digit in enumerate(GRID_DIGITS):
        members = (labels == digit).nonzero()[:, 0]
        drawn = members[torch.from_numpy(rng.integers(len(members), size=num_samples))]
        top, left = 32 * (cell // 2), 32 * (cell % 2)
        grid[:, :, top + 2 : top + 30, left + 2 : left + 30] = digits[drawn]
    target = torch.arange(num_samples) >= num_samples // 2
    # One sprite in six is kept for the test part.
    allowed = [i for i in range(len(sprites)) if (i % 6 == 5) == (part != "train")]
    rows = torch.tensor(allowed)[torch.from_numpy(rng.integers(len(allowed), size=num_samples))]
    shapes = torch.from_numpy(sprites[rows.numpy()])[:, None] * 255
    grid[target] = torch.maximum(grid[target], shapes[target])
    factors = torch.where(target[:, None], latents[rows], torch.nan)
    return SetPair(
        PixelStore(grid.expand(-1, 3, -1, -1).contiguous()),
        target,
        {name: factors[:, a] for a, name in enumerate(SPRITE_FACTORS)},
    )


def _sprites(root: str | None) -> tuple[np.ndarray, Tensor]:
    """Binary sprites (N, 64, 64) with rotations up to 45 degrees, and factors (N, 5) in [0, 1]."""
    path = require(
        data_root(root) / "dsprites" / SPRITE_FILE,
        what="dSprites",
        layout=f"dsprites/{SPRITE_FILE}",
        source="https://github.com/google-deepmind/dsprites-dataset",
        size="26 MB, 3 GB in memory",
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            images, values = file["imgs"], file["latents_values"]
    except ERRORS as error:
        raise UserError(f"{path} is not the dSprites file: {error}; get it again") from error
    angle = (values[:, 3] + np.pi) % (2 * np.pi) - np.pi
    kept = np.abs(angle) < np.pi / 4
    columns = [
        (values[:, 1] - 1) / 2,  # shape 1, 2, 3
        (values[:, 2] - 0.5) / 0.5,  # scale 0.5 .. 1
        angle / (np.pi / 2) + 0.5,
        values[:, 4],
        values[:, 5],
    ]
    factors = torch.from_numpy(np.stack(columns, 1)[kept]).float()
    return images[kept], factors
