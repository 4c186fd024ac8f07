"""Sentences made from a seed: random words of a small vocabulary; similar ones share words."""

import numpy as np

from common.data.samplers import sample_rng
from common.data.synthetic_words import SYLLABLES


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
    codes = rng.choice(len(SYLLABLES) ** 2, size=count, replace=False)
    return [SYLLABLES[c // 10] + SYLLABLES[c % 10] for c in codes]
