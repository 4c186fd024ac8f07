"""Masking of tokens for masked language modelling."""

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # label of a position that has no loss


def mask_tokens(
    ids: NDArray[np.int64],
    special: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    probability: float = 0.15,
    continues: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose positions; 80 % become the mask, 10 % a random token, 10 % stay.

    Source: Devlin et al. 2019, section 3.1, arXiv 1810.04805.

    Args:
        ids: token ids of any shape.
        special: True at positions that are never chosen ([CLS], [SEP], padding).
        rng: source of randomness.
        mask_id: id of the mask token.
        vocab_size: random tokens are drawn from ``[0, vocab_size)``.
        probability: share of the other positions that are chosen, in [0, 1].
        continues: True where a word piece goes on with the word of the piece before it: then whole
            words are chosen (the authors' "whole word masking"); None: pieces on their own.

    Returns:
        Masked ids, and labels: the original id at the chosen positions, -100 elsewhere.

    Raises:
        ValueError: shapes differ or a probability outside [0, 1].
    """
    if ids.shape != special.shape:
        raise ValueError(f"ids {ids.shape} and special {special.shape} must have one shape")
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
    draw = rng.random(ids.shape)
    if continues is not None:  # every piece has the draw of its word's first piece
        first = np.where(continues, 0, np.arange(ids.shape[-1]))
        draw = np.take_along_axis(draw, np.maximum.accumulate(first, axis=-1), axis=-1)
    chosen = (draw < probability) & ~special
    kind = rng.random(ids.shape)
    masked = np.where(chosen & (kind < 0.8), mask_id, ids)
    random = chosen & (kind >= 0.8) & (kind < 0.9)
    masked = np.where(random, rng.integers(vocab_size, size=ids.shape), masked)
    return masked, np.where(chosen, ids, IGNORED)
