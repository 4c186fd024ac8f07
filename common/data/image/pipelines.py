"""The papers' augmentation pipelines, one image at a time, seeded for each access."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from common.data.image.sources import Channels
from common.data.samplers import Rng

_BLUR = 13  # pixels; three standard deviations of the strongest blur


@contextmanager
def seeded(rng: Rng) -> Iterator[None]:
    """Seed the global generators of python, numpy and torch (CPU), and put them back.

    The transforms of timm and torchvision draw from them. Generators of other devices are not
    touched.
    """
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        seed = int(rng.integers(2**32))
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: also of GPUs, for good
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


@dataclass(frozen=True)
class SeededPipeline:
    """A per-image pipeline of torchvision or timm as an `ImageTransform`.

    Attributes:
        size: height and width of the result in pixels.
        pipeline: PIL image -> (3, size, size) float32, normalised; draws from global generators.
    """

    size: int
    pipeline: Callable[[Image.Image], Tensor]

    def one(self, image: Image.Image, rng: Rng | None = None) -> Tensor:
        """One augmented image (3, size, size)."""
        if rng is None:
            raise ValueError("a training transform needs a generator")
        with seeded(rng):
            return self.pipeline(image.convert("RGB"))

    def batch(self, images: Tensor, rngs: Sequence[Rng] | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, size, size), image by image."""
        if rngs is None or len(rngs) != len(images):
            raise ValueError(f"need one generator for each of the {len(images)} images")
        pairs = zip(images, rngs, strict=True)
        return torch.stack([self.one(TF.to_pil_image(image), rng) for image, rng in pairs])


def rand_augment(
    size: int, scale: tuple[float, float], erase_prob: float, mean: Channels, std: Channels
) -> SeededPipeline:
    """Crop, flip, RandAugment (magnitude 9, deviation 0.5, increasing), random erasing.

    Source: Cubuk et al. 2020, arXiv 1909.13719; Zhong et al. 2020, arXiv 1708.04896; timm's
    ``rand-m9-mstd0.5-inc1`` and erasing with noise per pixel.
    """
    import timm.data

    create: Any = timm.data.create_transform
    pipeline = create(
        size,
        is_training=True,
        scale=scale,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=erase_prob,
        re_mode="pixel",
        mean=mean,
        std=std,
    )
    return SeededPipeline(size, pipeline)


def dino_crop(
    size: int, scale: tuple[float, float], view: int, mean: Channels, std: Channels
) -> SeededPipeline:
    """A global crop of DINO: jitter, grey, blur (always on view 1, rarely on 2), solarise (view 2).

    Source: Caron et al. 2021, appendix, arXiv 2104.14294; Grill et al. 2020, arXiv 2006.07733.

    Args:
        size: of the result in pixels.
        scale: area range of the crop.
        view: 0 or 1.
        mean: per channel.
        std: per channel.
    """
    steps: list[Any] = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.GaussianBlur(_BLUR, (0.1, 2.0))], p=(1.0, 0.1)[view]),
    ]
    if view == 1:
        steps.append(v2.RandomSolarize(128, p=0.2))
    return SeededPipeline(size, v2.Compose([*steps, *_to_tensor(mean, std)]))


def multiview_crop(
    size: int, scale: tuple[float, float], view: int, mean: Channels, std: Channels
) -> SeededPipeline:
    """Crop and flip, rarely jitter and grey, always a small blur; view 2 is solarised at times.

    Grey, blur and solarising act on normalised values: what is above the mean of the set becomes 1
    minus itself.

    Source: erow/FastSSL, ``MultiviewPipeline`` of its FFCV transforms, of arXiv 2410.18200.

    Args:
        size: of the result in pixels.
        scale: area range of the crop.
        view: 0 or 1.
        mean: per channel.
        std: per channel.
    """
    steps: list[Any] = [
        *_crop_and_flip(size, scale),
        v2.RandomApply([v2.ColorJitter(0.8, 0.4, 0.4, 0.2)], p=0.1),
        *_to_tensor(mean, std),
        v2.RandomGrayscale(0.1),
        v2.GaussianBlur(3, (0.1, 2.0)),
    ]
    if view == 1:
        steps.append(v2.RandomSolarize(0, p=0.2))
    return SeededPipeline(size, v2.Compose(steps))


def three_augment(
    size: int, scale: tuple[float, float], mean: Channels, std: Channels
) -> SeededPipeline:
    """Crop, flip, then one of blur, solarise and grey, on normalised values.

    Source: erow/FastSSL, ``ThreeAugmentPipeline`` of its FFCV transforms, of arXiv 2410.18200; after
    Touvron et al. 2022, "DeiT III", section 3, arXiv 2204.07118.
    """
    one_of = [v2.GaussianBlur(3, (0.1, 2.0)), v2.RandomSolarize(0, p=1.0), v2.Grayscale(3)]
    steps = [*_crop_and_flip(size, scale), *_to_tensor(mean, std), v2.RandomChoice(one_of)]
    return SeededPipeline(size, v2.Compose(steps))


def _crop_and_flip(size: int, scale: tuple[float, float]) -> list[Any]:
    """As FFCV's decoder, whose areas an antialiased bilinear resize comes near."""
    crop = v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BILINEAR)
    return [crop, v2.RandomHorizontalFlip()]


_MILD_OPERATIONS = (
    "Identity",
    "AutoContrast",
    "Equalize",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
)


class _MildRandAugment(v2.RandAugment):
    """RandAugment of `_MILD_OPERATIONS`; a method of the class, so that it can be pickled."""

    _AUGMENTATION_SPACE: ClassVar[dict[str, Any]] = {
        name: v2.RandAugment._AUGMENTATION_SPACE[name] for name in _MILD_OPERATIONS
    }


def mild_rand_augment(
    size: int, scale: tuple[float, float], mean: Channels, std: Channels
) -> SeededPipeline:
    """Crop (bicubic), flip, two RandAugment operations at level 7 of 10; colours stay.

    Source: Zeng et al. 2022, "X-VLM", released transforms (list of operations), arXiv 2111.08276.
    """
    steps = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
        _MildRandAugment(num_ops=2, magnitude=7, num_magnitude_bins=11),
    ]
    return SeededPipeline(size, v2.Compose([*steps, *_to_tensor(mean, std)]))


def _to_tensor(mean: Channels, std: Channels) -> list[Any]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
