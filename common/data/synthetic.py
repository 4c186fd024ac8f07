"""Class-structured data made from a seed, for smoke runs, tests and benchmarks: needs no files.

Every class has a smooth colour pattern and a name; images are noisy copies of the pattern, captions
are sentences around the name. Both sides carry the class, so a contrastive loss falls. Sentences
are random words of a small vocabulary; similar ones share words.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.data.captions import CaptionedImages, CaptionLists, TextPolicy
from common.data.images import CachedImages, TrainTransform
from common.data.samplers import sample_rng
from common.data.text import TextTokenizer
from common.data.views import TwoViews

_SYLLABLES = ("ba", "do", "ki", "lu", "mo", "na", "pe", "ri", "so", "tu")
_FRAMES = (
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
    if num_classes > len(_SYLLABLES) ** 2 or num_rewrites >= len(_FRAMES):
        raise ValueError(f"at most {len(_SYLLABLES) ** 2} classes and {len(_FRAMES) - 1} rewrites")
    rng = sample_rng(seed, 0, 0)
    coarse = torch.from_numpy(rng.random((num_classes, 3, 4, 4), dtype=np.float32))
    patterns = interpolate(coarse, (image_size, image_size), mode="bilinear")
    names = [_SYLLABLES[c // 10] + _SYLLABLES[c % 10] for c in range(num_classes)]
    labels = torch.arange(num_samples) % num_classes
    shape = (num_samples, 3, image_size, image_size)
    pixels = patterns[labels] + noise * torch.from_numpy(
        rng.standard_normal(shape, dtype=np.float32)
    )
    frames = _FRAMES[: num_rewrites + 1]
    texts = [[frame.format(names[label]) for frame in frames] for label in labels.tolist()]
    return SyntheticPairs(pixels.clamp(0, 1).mul(255).byte(), texts, labels, names)


def synthetic_captioned_images(
    tokenizer: TextTokenizer,
    *,
    seed: int,
    num_samples: int = 64,
    image_size: int = 32,
    num_rewrites: int = 4,
    text_policy: TextPolicy = "random",
    num_texts: int = 1,
) -> CaptionedImages:
    """Training set of `synthetic_pairs`, as `common.data.captions.CaptionedImages`."""
    pairs = synthetic_pairs(
        num_samples, image_size=image_size, num_rewrites=num_rewrites, seed=seed
    )
    return CaptionedImages(
        CachedImages(pairs.images, TrainTransform(image_size)),
        CaptionLists(pairs.texts),
        tokenizer,
        seed=seed,
        text_policy=text_policy,
        num_texts=num_texts,
    )


def synthetic_views(*, seed: int, num_samples: int = 64, image_size: int = 32) -> TwoViews:
    """Training set of two views of `synthetic_pairs` images."""
    pairs = synthetic_pairs(num_samples, image_size=image_size, seed=seed)
    return TwoViews(
        CachedImages(pairs.images, TrainTransform(image_size, flip_prob=0.5)), seed=seed
    )


def synthetic_sentences(num_sentences: int = 64, *, seed: int = 0) -> list[str]:
    """Sentences of 3 to 12 made-up words; equal arguments give equal data."""
    rng = sample_rng(seed, 0, 1)
    lengths = rng.integers(3, 13, size=num_sentences)
    return [" ".join(_words(rng, int(length))) for length in lengths]


def synthetic_sentence_pairs(
    num_pairs: int = 64, *, seed: int = 0
) -> tuple[list[str], list[str], list[float]]:
    """Pairs of six-word sentences and how many of the six words they share, 0 to 5."""
    rng = sample_rng(seed, 0, 2)
    first, second, scores = [], [], []
    for shared in rng.integers(0, 6, size=num_pairs):
        words = _words(rng, 12)
        first.append(" ".join(words[:6]))
        second.append(" ".join(rng.permutation([*words[:shared], *words[6 : 12 - shared]])))
        scores.append(float(shared))
    return first, second, scores


def _words(rng: np.random.Generator, count: int) -> list[str]:
    codes = rng.choice(len(_SYLLABLES) ** 2, size=count, replace=False)
    return [_SYLLABLES[c // 10] + _SYLLABLES[c % 10] for c in codes]
