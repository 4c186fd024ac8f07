"""PIL images for CLIP's image tower."""

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

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
