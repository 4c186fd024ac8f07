"""Masking of whole words."""

import numpy as np
from numpy.typing import NDArray

from common.data.text.masking import IGNORED


def mask_words(
    ids: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    continues: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    probability: float = 0.15,
    most: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mask whole words of a part of one text, a fixed number of pieces instead of a random one.

    Words are taken in random order as long as they fit into ``min(most, max(1, round(probability *
    pieces)))`` pieces; of each piece 80 % become the mask, 10 % a random token, 10 % stay.

    Source: Devlin et al. 2019, arXiv 1810.04805, and the authors' whole word masking (release of
    May 2019).

    Args:
        ids: (L,) token ids.
        allowed: (L,) True where a piece may be masked: a segment, without special tokens. A word
            of which a piece is not allowed is never masked.
        continues: (L,) see `mask_tokens`.
        rng: source of randomness.
        mask_id: id of the mask token.
        vocab_size: random tokens are drawn from ``[0, vocab_size)``.
        probability: share of the allowed pieces that are masked, in [0, 1].
        most: masked pieces at most; None: any number.

    Returns:
        Masked ids, and labels: the original id at the masked positions, -100 elsewhere.

    Raises:
        ValueError: shapes differ or a probability outside [0, 1].
    """
    if not ids.shape == allowed.shape == continues.shape or ids.ndim != 1:
        raise ValueError(
            f"expected three rows of one length, got {ids.shape}, {allowed.shape},"
            f" {continues.shape}"
        )
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
    words = np.split(np.arange(len(ids)), np.flatnonzero(~continues)[1:])
    words = [word for word in words if len(word) and allowed[word].all()]
    budget = max(1, round(probability * int(allowed.sum()))) if probability else 0
    budget = budget if most is None else min(budget, most)
    chosen: list[int] = []
    for i in rng.permutation(len(words)):
        if len(chosen) + len(words[i]) <= budget:
            chosen += words[i].tolist()
    masked, labels = ids.copy(), np.full(len(ids), IGNORED, dtype=np.int64)
    labels[chosen] = ids[chosen]
    kind = rng.random(len(chosen))
    other = rng.integers(vocab_size, size=len(chosen))
    masked[chosen] = np.where(kind < 0.8, mask_id, np.where(kind < 0.9, other, ids[chosen]))
    return masked, labels
