"""PIL images for CLIP's image tower."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from common.data.samplers import Rng
from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder


def preprocess(
    encoder: OpenClipDualEncoder, target_pad: float | None = None
) -> Callable[[Any], Tensor]:
    """PIL image -> (3, S, S) as the model wants it.

    Args:
        encoder: says what open_clip does with a picture.
        target_pad: pad images whose sides differ by more than this ratio, before the crop.
    """
    transform = encoder.preprocess()
    if target_pad is None:
        return transform
    return lambda image: transform(padded(image.convert("RGB"), target_pad))


@dataclass(frozen=True)
class TowerTransform:
    """`preprocess` as the transform of an image source; no randomness.

    Attributes:
        size: height and width of the result in pixels.
        preprocess: PIL image -> (3, size, size) float32.
    """

    size: int
    preprocess: Callable[[Any], Tensor]

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, size, size) float32; `rngs` are not used."""
        return torch.stack([self.preprocess(to_pil_image(image)) for image in images])

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """PIL image -> (3, size, size) float32; `rng` is not used."""
        return self.preprocess(image)


def tower_transform(encoder: OpenClipDualEncoder) -> TowerTransform:
    """Resizing, crop and normalisation that the encoder was trained with and an export records."""
    return TowerTransform(encoder.image_size, preprocess(encoder))


def padded(image: Image.Image, ratio: float) -> Image.Image:
    """Black borders at the shorter sides of an image whose sides differ by `ratio` or more.

    Source: Baldrati et al. 2022 (target pad), arXiv 2203.04037.

    >>> padded(Image.new("RGB", (100, 40)), 1.25).size
    (100, 80)
    """
    width, height = image.size
    if max(width, height) / min(width, height) < ratio:
        return image
    scaled = max(width, height) / ratio
    across, down = max(int(scaled - width) // 2, 0), max(int(scaled - height) // 2, 0)
    out = Image.new("RGB", (width + 2 * across, height + 2 * down))
    out.paste(image, (across, down))
    return out
