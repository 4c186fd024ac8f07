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


def mask_spans(
    ids: NDArray[np.int64],
    length: int,
    rng: np.random.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    probability: float = 0.4,
    max_masks: int = 12,
    span_probability: float = 0.2,
    max_span: int = 3,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose about `probability` of one text's tokens, some of them as short spans.

    Positions 1 ... length - 1 (not the first token, the last one too) are tried in random order;
    with `span_probability` the neighbours that follow are taken along. 80 % of the chosen become
    the mask, 10 % a random token, 10 % stay.

    Source: Zeng et al. 2022, "X-VLM", released masking generator, arXiv 2111.08276; the 80/10/10 of
    Devlin et al. 2019, arXiv 1810.04805.

    Args:
        ids: (L,) padded ids of one text.
        length: tokens that are not padding, first and last one included.
        rng: source of randomness.
        mask_id: id of the mask token.
        vocab_size: random tokens are drawn from ``[0, vocab_size)``.
        probability: share of the tokens that is chosen, at least one token.
        max_masks: most tokens that are chosen.
        span_probability: of a span instead of a single token.
        max_span: longest span; the shortest has two tokens.

    Returns:
        Masked ids, and labels: the original id at the chosen positions, -100 elsewhere.
    """
    count = min(max_masks, max(1, round(length * probability)))
    chosen: list[int] = []
    for position in 1 + rng.permutation(max(0, length - 1)):
        if len(chosen) >= count:
            break
        if position in chosen:
            continue
        span = rng.random() < span_probability and max_span >= 2
        size = int(rng.integers(2, max_span + 1)) if span else 1
        chosen += [p for p in range(position, min(position + size, length)) if p not in chosen]
    chosen = chosen[:count]
    masked, labels = ids.copy(), np.full_like(ids, IGNORED)
    for position in chosen:
        labels[position], kind = ids[position], rng.random()
        if kind < 0.8:
            masked[position] = mask_id
        elif kind < 0.9:
            masked[position] = rng.integers(vocab_size)
    return masked, labels
