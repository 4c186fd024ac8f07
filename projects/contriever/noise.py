"""Changes of token sequences: crops, removed spans, deleted, masked, replaced or moved tokens.

All take ids without special tokens, so that those are never touched, and a generator with the
methods of `numpy.random.Generator` that they name.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from common.data.text.options import TokenNoise

Ids = NDArray[np.int64]


class Draws(Protocol):
    """What a crop draws from: a `numpy.random.Generator`, or a replay of another one's numbers."""

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""

    def integers(self, low: int, high: int) -> int:
        """A whole number in [low, high)."""


class Noise(Protocol):
    """What token noise draws from: a `numpy.random.Generator`."""

    def random(self, size: int) -> NDArray[np.float64]:
        """Numbers in [0, 1)."""


def random_span(length: int, rng: Draws, ratio_min: float, ratio_max: float) -> tuple[int, int]:
    """Start and length of a random part of a sequence.

        r ~ U(ratio_min, ratio_max),   size = floor(r * length),   start ~ U{0, ..., length - size}

    Source: Izacard et al. 2022, "Contriever", section 3.1 (independent cropping), arXiv 2112.09118.

    Args:
        length: of the sequence.
        rng: source of randomness.
        ratio_min: least share, in [0, 1].
        ratio_max: largest share, in [ratio_min, 1].
    """
    size = int(length * rng.uniform(ratio_min, ratio_max))
    return int(rng.integers(0, length - size + 1)), size


def random_crop(ids: Ids, rng: Draws, ratio_min: float, ratio_max: float) -> Ids:
    """A random part of a sequence, see `random_span`.

    Args:
        ids: (L,).
        rng: source of randomness.
        ratio_min: see `random_span`.
        ratio_max: see `random_span`.
    """
    start, size = random_span(len(ids), rng, ratio_min, ratio_max)
    return ids[start : start + size]


def inverse_cloze(
    ids: Ids, rng: np.random.Generator, ratio_min: float, ratio_max: float, keep: float = 0.1
) -> tuple[Ids, Ids]:
    """A random span as the query and what is around it as its context (inverse cloze task).

    Source: Lee et al. 2019, "Latent retrieval", section 4, arXiv 1906.00300 (there the span is a
    sentence).

    Args:
        ids: (L,).
        rng: source of randomness.
        ratio_min: see `random_span`.
        ratio_max: see `random_span`.
        keep: probability that the span stays in its context, 0.1 in the source.

    Returns:
        Query and context.
    """
    start, size = random_span(len(ids), rng, ratio_min, ratio_max)
    span = ids[start : start + size]
    if rng.random() < keep:
        return span, ids
    return span, np.concatenate([ids[:start], ids[start + size :]])


def delete_tokens(ids: Ids, rng: Noise, probability: float) -> Ids:
    """Each token is dropped with this probability, by chance also all of them.

    Args:
        ids: (L,).
        rng: source of randomness.
        probability: in [0, 1).
    """
    return ids[rng.random(len(ids)) > probability]


def mask_with(ids: Ids, rng: Noise, probability: float, mask_id: int) -> Ids:
    """Each token becomes the mask with this probability; arguments as `delete_tokens`."""
    return np.where(rng.random(len(ids)) > probability, ids, mask_id)


def replace_tokens(
    ids: Ids, rng: np.random.Generator, probability: float, vocab_size: int, first: int = 0
) -> Ids:
    """Each token becomes a uniform one of ``[first, vocab_size)`` with this probability."""
    keep = rng.random(len(ids)) > probability
    return np.where(keep, ids, rng.integers(first, vocab_size, size=len(ids)))


def shuffle_tokens(ids: Ids, rng: np.random.Generator, probability: float) -> Ids:
    """Each token is chosen with this probability.

    The chosen ones change places among themselves.
    """
    chosen = np.flatnonzero(rng.random(len(ids)) <= probability)
    shuffled = ids.copy()
    shuffled[chosen] = ids[rng.permutation(chosen)]
    return shuffled


def token_noise(
    noise: TokenNoise, *, mask_id: int | None, vocab_size: int, special: Sequence[int] = ()
) -> Callable[[Ids, np.random.Generator], Ids]:
    """The function that a config's noise names: ids (L,), generator -> ids.

    Args:
        noise: kind and probability.
        mask_id: for "mask".
        vocab_size: for "replace"; ids up to the largest of `special` are not drawn, if they come
            first in the vocabulary.
        special: ids of special tokens.

    Raises:
        ValueError: "mask" without a mask token.
    """
    p = noise.probability
    if noise.kind == "mask" and mask_id is None:
        raise ValueError("data.noise.kind=mask needs a tokenizer with a mask token")
    first = 0
    while first in special:
        first += 1
    functions: dict[str, Callable[[Ids, np.random.Generator], Ids]] = {
        "none": lambda ids, rng: ids,
        "delete": lambda ids, rng: delete_tokens(ids, rng, p),
        "mask": lambda ids, rng: mask_with(ids, rng, p, int(mask_id or 0)),
        "replace": lambda ids, rng: replace_tokens(ids, rng, p, vocab_size, first),
        "shuffle": lambda ids, rng: shuffle_tokens(ids, rng, p),
    }
    return functions[noise.kind]
