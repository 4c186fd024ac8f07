"""SimCLR's augmentation on whole batches: crop, flip, colour jitter, grey, blur.

Every image has its own coins, factors and order of the colour operations, all from its own
generator; the operations run on the batch. Factors and formulas are those of torchvision.

# B images, S pixels
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torchvision.transforms.v2 import InterpolationMode

from common.data.image.opened import OpenedImage
from common.data.image.sources import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Channels,
    TrainTransform,
    planned,
    planned_view,
)
from common.data.samplers import Rng

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_ORDERS = np.array(
    [
        (a, b, c, d)
        for a in range(4)
        for b in range(4)
        for c in range(4)
        for d in range(4)
        if len({a, b, c, d}) == 4
    ]
)
_CHUNK_PIXELS = 150_000  # pixels that run through all operations at once, to stay in the cache
_GREY = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)


@dataclass(frozen=True)
class SimCLRTransform:
    """Random resized crop, flip, colour jitter, greyscale, Gaussian blur, normalisation.

    Source: Chen et al. 2020 (SimCLR), appendix A, arXiv 2002.05709.

    Attributes:
        size: height and width of the result in pixels.
        scale: area range of the crop as a fraction of the image.
        ratio: range of width / height of the crop.
        flip_prob: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation (factors in [1 - s, 1 + s], not below
            0) and hue (shift in [-s, s], s <= 0.5, in turns of the colour wheel).
        jitter_prob: probability of the colour jitter.
        grey_prob: probability of greyscale.
        blur_prob: probability of a Gaussian blur with sigma in [0.1, 2] pixels.
        mean: per channel, subtracted from values in [0, 1].
        std: per channel, divides.
        solarise_prob: probability of inverting the values of at least 128 / 255.
        interpolation: of the crop, bilinear or bicubic.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    jitter_prob: float = 0.8
    grey_prob: float = 0.2
    blur_prob: float = 0.0
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    solarise_prob: float = 0.0
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __post_init__(self) -> None:
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(f"jitter needs strengths >= 0 and hue <= 0.5, got {self.jitter}")

    @property
    def crop(self) -> TrainTransform:
        """The crop, which is drawn before the colours: ``crop.box`` gives its position."""
        return TrainTransform(
            self.size,
            self.scale,
            self.ratio,
            self.flip_prob,
            (0.0, 0.0, 0.0),
            (1.0, 1.0, 1.0),
            self.interpolation,
        )

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """One view of each image.

        Args:
            images: (B, 3, H, W) uint8; H, W at most twice `size`.
            rngs: one generator per image, each another object: parts of a large batch run one after
                the other, so the draws of images that share one would depend on their places.

        Returns:
            (B, 3, size, size) float32, normalised.

        Raises:
            ValueError: as `TrainTransform.batch`, or images that share a generator.
        """
        if rngs is not None and len({id(rng) for rng in rngs}) < len(rngs):
            raise ValueError("images of a batch share a generator: give each one of its own")
        return self.finish(images, planned(self, images, rngs), cut=False)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """One view of a PIL image of any size (antialiased); (3, size, size) float32."""
        return planned_view(self, image, rng)

    def plan(self, rng: Rng, height: int, width: int) -> np.ndarray:
        """(15,): box and flip, then nine numbers of the colours and that of solarisation."""
        box = self.crop.box(rng, height, width)
        colours = rng.random(9)
        solarise = rng.random() if self.solarise_prob > 0 else 1.0
        return np.array([*box, *colours, solarise])

    def crops(self, image: OpenedImage, plan: np.ndarray) -> Tensor:
        """The crop of one image; see `PlannedTransform`."""
        return self.crop.crops(image, plan)

    def finish(self, pixels: Tensor, plans: np.ndarray, *, cut: bool) -> Tensor:
        """Views of planned crops; see `PlannedTransform`."""
        step = len(pixels)
        if pixels.device.type == "cpu":
            step = max(4, _CHUNK_PIXELS // self.size**2)
        views = [
            self._colour(self.crop.finish(part, plan[:, :5], cut=cut), plan[:, 5:])
            for part, plan in _pieces(pixels, plans, step)
        ]
        return views[0] if len(views) == 1 else torch.cat(views)

    def _colour(self, pixels: Tensor, draws: np.ndarray) -> Tensor:
        """Colours of crops in [0, 1]; branches on the draws, so no device is waited for."""
        device = pixels.device
        coins = torch.from_numpy(draws[:, :3] < (self.jitter_prob, self.grey_prob, self.blur_prob))
        if coins[:, 0].any():
            orders = torch.from_numpy(_ORDERS[(draws[:, 3] * len(_ORDERS)).astype(int)])
            pixels = jitter_colours(pixels, self._factors(draws[:, 4:8], coins[:, 0]), orders)
        if coins[:, 1].any():
            grey = _grey(pixels).expand_as(pixels)
            pixels = torch.where(_each(coins[:, 1], device), grey, pixels)
        if coins[:, 2].any():
            rows = coins[:, 2].nonzero()[:, 0]
            sigma = torch.from_numpy(0.1 + 1.9 * draws[:, 8]).float()[rows]
            rows = rows.to(device, non_blocking=True)
            pixels = pixels.clone()
            pixels[rows] = gaussian_blur(pixels[rows], sigma.to(device, non_blocking=True))
        if self.solarise_prob > 0:
            turned = _each(torch.from_numpy(draws[:, 9] < self.solarise_prob), device)
            pixels = torch.where(turned & (pixels >= 128 / 255), 1 - pixels, pixels)
        mean, std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (self.mean, self.std))
        return (pixels - mean) / std

    def _factors(self, uniform: np.ndarray, active: Tensor) -> Tensor:
        """(B, 4) factors; of images without jitter those that change nothing."""
        strength = np.array(self.jitter)
        low = np.maximum(0.0, np.array([1.0, 1.0, 1.0, 0.0]) - strength)
        low[HUE] = -strength[HUE]
        high = np.array([1.0, 1.0, 1.0, 0.0]) + strength
        factors = torch.from_numpy(low + (high - low) * uniform).float()
        return torch.where(active[:, None], factors, torch.tensor([1.0, 1.0, 1.0, 0.0]))


def _pieces(pixels: Tensor, plans: np.ndarray, step: int) -> Iterator[tuple[Tensor, np.ndarray]]:
    for start in range(0, len(pixels), step):
        yield pixels[start : start + step], plans[start : start + step]


def _each(values: Tensor, device: torch.device) -> Tensor:
    """(B,) of the CPU as (B, 1, 1, 1) on a device."""
    return values[:, None, None, None].to(device, non_blocking=True)


def jitter_colours(pixels: Tensor, factors: Tensor, orders: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of every image, in an order of its own.

    Args:
        pixels: (B, 3, S, S) float32 in [0, 1].
        factors: (B, 4) float32, on the CPU: three factors >= 0 (1 changes nothing) and a hue shift
            in turns.
        orders: (B, 4) int64, on the CPU: a permutation of 0 (brightness), 1 (contrast), 2
            (saturation), 3 (hue) in each row.

    Returns:
        (B, 3, S, S) in [0, 1].
    """
    for step in range(4):
        kind = orders[:, step]
        blended = kind != HUE
        factor = factors.gather(1, kind[:, None])[:, 0]
        pixels = _blend(pixels, torch.where(blended, factor, 1.0), kind)
        turned = (~blended & (factor != 0)).nonzero()[:, 0]
        if len(turned):
            turns = factor[turned].to(pixels.device, non_blocking=True)
            turned = turned.to(pixels.device, non_blocking=True)
            pixels[turned] = shift_hue(pixels[turned], turns)
    return pixels


def _blend(pixels: Tensor, factor: Tensor, kind: Tensor) -> Tensor:
    """Away from or towards black (brightness), the mean grey (contrast), the grey image."""
    kind, factor = _each(kind, pixels.device), _each(factor, pixels.device)
    grey = _grey(pixels)
    base = torch.where(kind == CONTRAST, grey.mean((2, 3), keepdim=True), grey)
    base = base * (kind != BRIGHTNESS)
    return torch.lerp(base.expand_as(pixels), pixels, factor).clamp_(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * _GREY.to(pixels.device)).sum(1, keepdim=True)


def shift_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of HSV.

    Args:
        pixels: (B, 3, S, S) float32 in [0, 1].
        turns: (B,) shift, 1 is the whole colour wheel.
    """
    red, green, blue = pixels.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue).div_(safe),
        torch.where(
            value == green, (blue - red).div_(safe).add_(2), (red - green).div_(safe).add_(4)
        ),
    )
    hue += 6 * turns[:, None, None]  # in sixths of a turn
    k = torch.tensor([5.0, 3.0, 1.0], device=hue.device).view(1, 3, 1, 1) + hue[:, None]
    k.sub_((k / 6).floor_(), alpha=6)  # modulo 6; torch.remainder is several times slower
    share = torch.minimum(k, 4 - k).clamp_(0, 1)
    return share.mul_(chroma[:, None]).neg_().add_(value[:, None]).clamp_(0, 1)


def gaussian_blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own width; the kernel spans a tenth of the image, odd, >= 3.

    Args:
        pixels: (B, 3, S, S) float32.
        sigma: (B,) > 0, in pixels.
    """
    size = pixels.shape[-1]
    radius = max(1, size // 20)
    offset = torch.arange(-radius, radius + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = (-0.5 * (offset / sigma[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)  # (3B, 2 radius + 1)
    rows = pad(pixels, [radius] * 4, mode="reflect").flatten(0, 1)[None]
    groups = len(kernel)
    rows = conv2d(rows, kernel[:, None, :, None], groups=groups)
    rows = conv2d(rows, kernel[:, None, None, :], groups=groups)
    return rows[0].view_as(pixels)
