"""Image sources and per-sample seeded transforms, batched where the images fit into memory.

All randomness of one access comes from the generator handed in for that sample, so a crop depends
on (seed, epoch, index) and neither on the batch it is drawn in nor on the loader process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.decode import decode_image
from common.data.deferred import Deferred
from common.data.image.opened import OpenedImage
from common.data.samplers import Rng

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Channels = tuple[float, float, float]


class ImageTransform(Protocol):
    """From images to the float tensor that an image tower takes."""

    @property
    def size(self) -> int:
        """Height and width of the result in pixels."""
        ...

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, size, size) float32."""
        ...

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """PIL image -> (3, size, size) float32."""
        ...


@runtime_checkable
class PlannedTransform(ImageTransform, Protocol):
    """A random crop, then operations that can run later, on another device, for a whole batch."""

    def plan(self, rng: Rng, height: int, width: int) -> np.ndarray:
        """All numbers that a view of an image needs, float64: (P,), or (V, P) for V views."""
        ...

    def crops(self, image: OpenedImage, plan: np.ndarray) -> Tensor:
        """The planned crops, antialiased: ([V,] 3, size, size) uint8."""
        ...

    def finish(self, pixels: Tensor, plans: np.ndarray, *, cut: bool) -> Tensor:
        """Views of a batch on the device of the pixels.

        Args:
            pixels: whole images (B, 3, H, W) uint8, or their crops (B, [V,] 3, size, size).
            plans: (B, [V,] P), on the CPU.
            cut: whether the pixels are crops.

        Returns:
            (B, [V,] 3, size, size) float32.
        """
        ...


class CropBox(NamedTuple):
    """Position of a training crop in its image, in pixels, and whether it is mirrored.

    Methods of local features match the places of two crops by it.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool

    def centres(self, rows: int, columns: int) -> Tensor:
        """(rows, columns, 2): y and x, in the image, of the centres of a grid laid over the crop.

        >>> CropBox(0, 10, 4, 8, True).centres(1, 2).tolist()
        [[[2.0, 16.0], [2.0, 12.0]]]
        """
        y = self.top + self.height * (torch.arange(rows) + 0.5) / rows
        x = self.left + self.width * (torch.arange(columns) + 0.5) / columns
        x = x.flip(0) if self.flip else x
        return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)


def crop_box(
    rng: Rng, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Box of a random resized crop: area uniform in `scale`, aspect log-uniform in `ratio`.

    Ten tries, then the largest centred box of the nearest admissible aspect (the torchvision rule).

    Args:
        rng: generator of this access.
        height: of the image, in pixels.
        width: of the image, in pixels.
        scale: range of the area as a fraction of the image, in (0, 1].
        ratio: range of width / height.

    Returns:
        top, left, height, width in pixels.
    """
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            return top, int(rng.integers(0, width - w + 1)), h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class TrainTransform:
    """Random resized crop, optional horizontal flip, normalisation.

    Attributes:
        size: height and width of the result in pixels.
        scale: area range of the crop as a fraction of the image.
        ratio: range of width / height of the crop.
        flip_prob: probability of a horizontal flip.
        mean: per channel, subtracted from values in [0, 1].
        std: per channel, divides.
        interpolation: bilinear or bicubic.
    """

    size: int
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.0
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """Crop a whole batch with one resampling, each image with its own box.

        Args:
            images: (B, 3, H, W) uint8; H, W at most twice `size`, since sampling is not
                antialiased.
            rngs: one generator per image.

        Returns:
            (B, 3, size, size) float32, normalised.

        Raises:
            ValueError: images larger than twice `size`, or not one generator per image.
        """
        return self.finish(images, planned(self, images, rngs), cut=False)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """Crop one PIL image of any size (antialiased); (3, size, size) float32, normalised."""
        return planned_view(self, image, rng)

    def plan(self, rng: Rng, height: int, width: int) -> np.ndarray:
        """(5,) box and flip; see `PlannedTransform`."""
        return np.array(self.box(rng, height, width), dtype=np.float64)

    def crops(self, image: OpenedImage, plan: np.ndarray) -> Tensor:
        """The crop of one image; see `PlannedTransform`."""
        top, left, height, width, flip = plan[:5]
        region = image.region(top, left, height, width)
        crop: Tensor = F.resize(region, [self.size, self.size], self.interpolation, antialias=True)
        return crop.flip(-1) if flip else crop

    def finish(self, pixels: Tensor, plans: np.ndarray, *, cut: bool) -> Tensor:
        """Normalised crops; see `PlannedTransform`."""
        crops = pixels.float() if cut else self.sample(pixels, plans)
        return _normalize(crops, self.mean, self.std)

    def sample(self, images: Tensor, plans: np.ndarray) -> Tensor:
        """Planned crops of whole images (B, 3, H, W), float32 in [0, 255], not antialiased.

        Raises:
            ValueError: images larger than twice `size`.
        """
        height, width = images.shape[-2:]
        if max(height, width) > 2 * self.size:
            raise ValueError(
                f"images of {height}x{width} would alias at size {self.size}: decode them at "
                f"{2 * self.size} or less"
            )
        boxes = torch.from_numpy(plans[:, :5]).float().to(images.device, non_blocking=True)
        top, left, h, w, flip = boxes.T
        # output pixels in [-1, 1]
        center = (2 * torch.arange(self.size, device=images.device) + 1) / self.size - 1
        mirror = 1 - 2 * flip
        x = torch.outer(w / width * mirror, center) + ((2 * left + w) / width - 1)[:, None]
        y = torch.outer(h / height, center) + ((2 * top + h) / height - 1)[:, None]
        shape = (len(images), self.size, self.size)
        grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
        mode = self.interpolation.value
        crops = grid_sample(images.float(), grid, mode, padding_mode="border", align_corners=False)
        # cubic weights can leave the range of the pixels
        return crops if mode == "bilinear" else crops.clamp(0, 255)

    def box(self, rng: Rng, height: int, width: int) -> "CropBox":
        """What `batch` and `one` cut out first, for a generator in the same state.

        Args:
            rng: generator of this access; its state moves on.
            height: of the image, in pixels.
            width: of the image, in pixels.
        """
        box = crop_box(rng, height, width, self.scale, self.ratio)
        return CropBox(*box, self.flip_prob > 0 and rng.random() < self.flip_prob)


def planned(transform: PlannedTransform, images: Tensor, rngs: Sequence[Rng] | None) -> np.ndarray:
    """Plans of a batch of images of one size.

    Raises:
        ValueError: not one generator per image.
    """
    if rngs is None or len(rngs) != len(images):
        raise ValueError(f"need one generator for each of the {len(images)} images")
    height, width = images.shape[-2:]
    return np.stack([transform.plan(rng, height, width) for rng in rngs])


def planned_view(transform: PlannedTransform, image: Image.Image, rng: Rng | None) -> Tensor:
    """A view, or a stack of views, of one PIL image.

    Raises:
        ValueError: no generator.
    """
    if rng is None:
        raise ValueError("a training transform needs a generator")
    opened = OpenedImage(image)
    plan = transform.plan(rng, opened.height, opened.width)
    return transform.finish(transform.crops(opened, plan)[None], plan[None], cut=True)[0]


@dataclass(frozen=True)
class EvalTransform:
    """Resizing, centre crop, normalisation; no randomness.

    Attributes:
        size: height and width of the result in pixels.
        mean: per channel, subtracted from values in [0, 1].
        std: per channel, divides.
        interpolation: of the resizing, bilinear or bicubic.
        resize: shorter side before the crop, at least `size`; None: `size`.
    """

    size: int
    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    resize: int | None = None

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < self.size:
            raise ValueError(
                f"cannot cut {self.size} pixels out of images resized to {self.resize}"
            )

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, size, size) float32, normalised; `rngs` are not used."""
        side = self.resize or self.size
        if images.shape[-2:] != (self.size, self.size) or side != self.size:
            images = F.center_crop(
                F.resize(images, [side], self.interpolation, antialias=True), [self.size] * 2
            )
        return _normalize(images.float(), self.mean, self.std)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """PIL image -> (3, size, size) float32, normalised; `rng` is not used."""
        side = self.resize or self.size
        image = F.resize(image.convert("RGB"), [side], self.interpolation, antialias=True)
        return _to_float(F.center_crop(image, [self.size, self.size]), self.mean, self.std)


@dataclass(frozen=True)
class SquareTransform:
    """The whole image squeezed into the square (bicubic), normalisation; no randomness."""

    size: int
    mean: Channels = CLIP_MEAN
    std: Channels = CLIP_STD

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, size, size) float32, normalised; `rngs` are not used."""
        if images.shape[-2:] != (self.size, self.size):
            images = F.resize(images, [self.size] * 2, InterpolationMode.BICUBIC, antialias=True)
        return _normalize(images.float(), self.mean, self.std)

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """PIL image -> (3, size, size) float32, normalised; `rng` is not used."""
        size = [self.size, self.size]
        square = F.resize(image.convert("RGB"), size, InterpolationMode.BICUBIC, antialias=True)
        return _to_float(square, self.mean, self.std)


class ImageSource(Protocol):
    """Images by index; what cannot be read is left out."""

    def __len__(self) -> int: ...

    def load(
        self, indices: Sequence[int], rngs: Sequence[Rng] | None = None
    ) -> tuple[Tensor, list[int]]:
        """Transformed images (K, 3, size, size) and the K <= B positions that could be read."""
        ...


View = tuple[Tensor, np.ndarray | None]  # uint8 crops with their plan, or a finished view
Look = tuple[ImageTransform, Sequence[Rng]]  # a transform, and a generator for each image


@runtime_checkable
class ViewSource(ImageSource, Protocol):
    """Images that are read once for any number of views."""

    transform: ImageTransform

    def views(
        self, indices: Sequence[int], looks: Sequence[Look]
    ) -> tuple[list[Tensor | Deferred], list[int]]:
        """A batch for each look, and the positions that could be read.

        A transform that can be planned leaves its batch to be finished.
        """
        ...


class CachedImages:
    """Images held in memory as uint8; a batch is one gather and one resampling.

    Args:
        images: (N, 3, H, W) uint8, e.g. from `PackedImages.decode`.
        transform: applied to whole batches.
    """

    def __init__(self, images: Tensor, transform: ImageTransform) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"need (N, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def load(
        self, indices: Sequence[int], rngs: Sequence[Rng] | None = None
    ) -> tuple[Tensor, list[int]]:
        """See `ImageSource`; nothing is ever left out."""
        images = self.images[torch.as_tensor(indices, dtype=torch.long)]
        return self.transform.batch(images, rngs), list(range(len(indices)))

    def views(
        self, indices: Sequence[int], looks: Sequence[Look]
    ) -> tuple[list[Tensor | Deferred], list[int]]:
        """See `ViewSource`; nothing is ever left out."""
        images = self.images[torch.as_tensor(indices, dtype=torch.long)]
        batches: list[Tensor | Deferred] = [
            Deferred(transform, images, planned(transform, images, rngs), cut=False)
            if isinstance(transform, PlannedTransform)
            else transform.batch(images, rngs)
            for transform, rngs in looks
        ]
        return batches, list(range(len(indices)))

    def one(self, index: int) -> Tensor | None:
        """Image (3, size, size) without randomness."""
        return self.load([index])[0][0]


class ImageFiles:
    """Images read from files at every access.

    Args:
        path_of: maps an index to the file.
        length: number of images.
        transform: applied to each image.
        max_corrupt: largest tolerated fraction of unreadable files, in [0, 1].
    """

    def __init__(
        self,
        path_of: Callable[[int], str | Path],
        length: int,
        transform: ImageTransform,
        *,
        max_corrupt: float = 0.05,
    ) -> None:
        self.path_of, self.length, self.transform = path_of, length, transform
        self.counter = CorruptCounter("image files", max_fraction=max_corrupt)

    def __len__(self) -> int:
        return self.length

    def load(
        self, indices: Sequence[int], rngs: Sequence[Rng] | None = None
    ) -> tuple[Tensor, list[int]]:
        """See `ImageSource`.

        Raises:
            UserError: none of the files can be read, or too many so far (see `CorruptCounter`).
        """
        if rngs is not None:
            (batch,), kept = self.views(indices, [(self.transform, rngs)])
            return batch.finish() if isinstance(batch, Deferred) else batch, kept
        images = {p: image for p, i in enumerate(indices) if (image := self.one(i)) is not None}
        self._check_any(images, indices)
        return torch.stack(list(images.values())), list(images)

    def views(
        self, indices: Sequence[int], looks: Sequence[Look]
    ) -> tuple[list[Tensor | Deferred], list[int]]:
        """See `ViewSource`; raises as `load` does."""
        rows: dict[int, list[View]] = {}
        for position, index in enumerate(indices):
            path = self.path_of(index)
            here = [(transform, rngs[position]) for transform, rngs in looks]
            try:
                rows[position] = read_views(path, here)
            except ValueError as error:
                self.counter.bad(str(path), error)
            else:
                self.counter.good()
        self._check_any(rows, indices)
        columns = zip(*rows.values(), strict=True)
        return [batch_of(look[0], c) for look, c in zip(looks, columns, strict=True)], list(rows)

    def one(self, index: int, rng: Rng | None = None) -> Tensor | None:
        """Transformed image (3, size, size); None, and counted, if it cannot be read.

        Raises:
            UserError: too many so far (see `CorruptCounter`).
        """
        path = self.path_of(index)
        try:
            view = self.transform.one(decode_image(path), rng)
        except ValueError as error:
            self.counter.bad(str(path), error)
            return None
        self.counter.good()
        return view

    def _check_any(self, rows: dict[int, Any], indices: Sequence[int]) -> None:
        if not rows:
            last = self.path_of(indices[-1])
            raise UserError(f"no image of a batch of {len(indices)} can be read; last: {last}")


def read_views(
    image_file: str | Path | bytes, looks: Sequence[tuple[ImageTransform, Rng]]
) -> list[View]:
    """A view of one image file, or of its content, for each transform and its generator.

    Raises:
        Unreadable: there is no such file, or no image in it that can be decoded.
    """
    with OpenedImage.open(image_file) as image:
        plans = [
            transform.plan(rng, image.height, image.width)
            if isinstance(transform, PlannedTransform)
            else None
            for transform, rng in looks
        ]
        image.allow_reduction(
            min(
                1.0 if plan is None else plan[..., 2:4].min() / transform.size
                for (transform, _), plan in zip(looks, plans, strict=True)
            )
        )
        views: list[View] = []
        for (transform, rng), plan in zip(looks, plans, strict=True):
            if plan is not None and isinstance(transform, PlannedTransform):
                views.append((transform.crops(image, plan), plan))
            else:
                views.append((transform.one(image.pil(), rng), None))
        return views


def batch_of(transform: ImageTransform, column: Sequence[View]) -> Tensor | Deferred:
    """A batch of what `read_views` gives for one transform."""
    pixels, plans = zip(*column, strict=True)
    if isinstance(transform, PlannedTransform):
        return Deferred(transform, torch.stack(pixels), np.stack(plans), cut=True)
    return torch.stack(pixels)


def _to_float(image: Image.Image, mean: Channels, std: Channels) -> Tensor:
    return _normalize(F.pil_to_tensor(image).float(), mean, std)


def _normalize(pixels: Tensor, mean: Channels, std: Channels) -> Tensor:
    """From [0, 255] in place: divided by 255, then standardised per channel."""
    normalized: Tensor = F.normalize(pixels.div_(255), list(mean), list(std), inplace=True)
    return normalized
