"""Masking of spans."""

import numpy as np
from numpy.typing import NDArray

from common.data.text.masking import IGNORED


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
