"""Class-structured data made from a seed, for smoke runs, tests and benchmarks: needs no files.

Every class has a smooth colour pattern and a name; images are noisy copies of the pattern, captions
are sentences around the name. Both sides carry the class, so a contrastive loss falls.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.data.samplers import sample_rng
from common.data.synthetic_words import SYLLABLES

FRAMES = (
    "a picture of a {}",
    "this shows one {} in plain view",
    "there is a {} here",
    "the {} fills the frame",
    "someone drew a {} for us",
)


@dataclass(frozen=True)
class SyntheticPairs:
    """Images with M + 1 texts each.

    Attributes:
        images: (N, 3, S, S) uint8.
        texts: N lists of texts, all naming the class; the first is the caption.
        labels: (N,) int64 classes.
        class_names: one made-up word per class.
    """

    images: Tensor
    texts: list[list[str]]
    labels: Tensor
    class_names: list[str]


def synthetic_pairs(
    num_samples: int = 64,
    *,
    num_classes: int = 8,
    image_size: int = 32,
    num_rewrites: int = 4,
    noise: float = 0.1,
    seed: int = 0,
) -> SyntheticPairs:
    """Make image-text pairs; equal arguments give equal data.

    Args:
        num_samples: number of pairs; classes take turns.
        num_classes: at most 100, one name each.
        image_size: height and width in pixels.
        num_rewrites: texts per image besides the caption, at most 4.
        noise: standard deviation of the pixel noise, in units of the value range.
        seed: of patterns and noise.
    """
    if num_classes > len(SYLLABLES) ** 2 or num_rewrites >= len(FRAMES):
        raise ValueError(f"at most {len(SYLLABLES) ** 2} classes and {len(FRAMES) - 1} rewrites")
    rng = sample_rng(seed, 0, 0)
    coarse = torch.from_numpy(rng.random((num_classes, 3, 4, 4), dtype=np.float32))
    patterns = interpolate(coarse, (image_size, image_size), mode="bilinear")
    names = [SYLLABLES[c // 10] + SYLLABLES[c % 10] for c in range(num_classes)]
    labels = torch.arange(num_samples) % num_classes
    shape = (num_samples, 3, image_size, image_size)
    pixels = patterns[labels] + noise * torch.from_numpy(
        rng.standard_normal(shape, dtype=np.float32)
    )
    frames = FRAMES[: num_rewrites + 1]
    texts = [[frame.format(names[label]) for frame in frames] for label in labels.tolist()]
    return SyntheticPairs(pixels.clamp(0, 1).mul(255).byte(), texts, labels, names)
