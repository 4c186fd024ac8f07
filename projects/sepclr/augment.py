"""The paper's augmentations: SimCLR's, and rotation, vertical flips, noise, rescaling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from common.data.image.sources import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, ImageTransform
from common.data.samplers import Rng
from common.families.images.data import simclr_transform
from projects.sepclr.config import SepclrData

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # images are only divided by 255


@dataclass(frozen=True)
class Distorted:
    """Another transform, then rotation, vertical flip and noise with coins for each image.

    Attributes:
        inner: gives images in [0, 1].
        rotation: largest angle in degrees; corners become black.
        vertical_flip_prob: of turning an image upside down.
        noise: standard deviation of Gaussian noise, the same in all channels.
        noise_prob: of noise in an image.
    """

    inner: ImageTransform
    rotation: float = 0.0
    vertical_flip_prob: float = 0.0
    noise: float = 0.0
    noise_prob: float = 1.0

    @property
    def size(self) -> int:
        """Height and width of the result."""
        return self.inner.size

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """One view of each image; see `ImageTransform`."""
        pixels = self.inner.batch(images, rngs)
        assert rngs is not None
        return self._distort(pixels, rngs)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """One view of a PIL image."""
        pixels = self.inner.one(image, rng)
        assert rng is not None
        return self._distort(pixels[None], [rng])[0]

    def _distort(self, pixels: Tensor, rngs: Sequence[Rng]) -> Tensor:
        draws = np.stack([rng.random(2) for rng in rngs])
        if self.rotation > 0:
            angles = torch.from_numpy(2 * draws[:, 0] - 1) * math.radians(self.rotation)
            pixels = rotated(pixels, angles.to(pixels.dtype))
        upside_down = torch.from_numpy(draws[:, 1] < self.vertical_flip_prob)
        if upside_down.any():
            pixels = torch.where(upside_down[:, None, None, None], pixels.flip(2), pixels)
        if self.noise > 0:
            shape = (1, *pixels.shape[2:])  # the noisy images, digit grids, are grey
            grain = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])
            noisy = torch.tensor([rng.random() < self.noise_prob for rng in rngs])
            pixels = pixels + self.noise * noisy[:, None, None, None] * torch.from_numpy(grain)
        return pixels


def rotated(pixels: Tensor, angles: Tensor) -> Tensor:
    """Rotate each image (B, 3, S, S) about its centre by an angle (B,) in radians."""
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    maps = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = affine_grid(maps, list(pixels.shape), align_corners=False)
    return grid_sample(pixels, grid, align_corners=False)


@dataclass(frozen=True)
class Rescaled:
    """A fixed map of the bytes, see `rescaled`, then another transform."""

    inner: ImageTransform

    @property
    def size(self) -> int:
        """Height and width of the result."""
        return self.inner.size

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """See `ImageTransform`."""
        return self.inner.batch(rescaled(images), rngs)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """See `ImageTransform`."""
        pixels = rescaled(pil_to_tensor(image.convert("RGB")))
        return self.inner.one(to_pil_image(pixels), rng)


def rescaled(images: Tensor) -> Tensor:
    """Images (..., 3, H, W) uint8 on the scale of the released ODIR set, rounded to bytes again.

    The release standardises bytes by ImageNet's moments of [0, 1], blue channel first, and then
    brings the smallest and largest value of its training set (of the bytes 0 and 255) to 0 and 1.
    Green stays as it is, red and blue lose 0.4 and 2.2 percent.
    """
    mean, std = (torch.tensor(x[::-1]).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    low, high = (-mean / std).min(), ((255 - mean) / std).max()
    return (255 * ((images - mean) / std - low) / (high - low)).round().byte()


def train_transform(cfg: SepclrData) -> ImageTransform:
    """The augmentation of the config."""
    crop = simclr_transform(cfg, flip_prob=cfg.flip_prob, mean=ZERO, std=ONE)
    distorted = Distorted(crop, cfg.rotation, cfg.vertical_flip_prob, cfg.noise, cfg.noise_prob)
    return Rescaled(distorted) if cfg.rescale == "minmax" else distorted


def eval_transform(cfg: SepclrData) -> ImageTransform:
    """Un-augmented images."""
    plain = EvalTransform(cfg.plain_size, mean=ZERO, std=ONE)
    return Rescaled(plain) if cfg.rescale == "minmax" else plain
