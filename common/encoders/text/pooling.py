"""Poolers: token states of a transformer -> one vector per text.

All of them leave padding out, but "avg_all".

Sources: Gao et al. 2021, "SimCSE", arXiv 2104.08821, section 3.1 and official code (names);
Liu et al. 2021, "Mirror-BERT", arXiv 2104.08027, official code ("avg_all"); Jiang et al. 2022,
"PromptBERT", arXiv 2201.04337 ("mask").
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from common.encoders.pooling import check_mask, mean_pool

Pooling = Literal[
    "cls",
    "cls_before_pooler",
    "avg",
    "avg_all",
    "avg_first_last",
    "avg_embedding_last",
    "avg_top2",
    "mask",
    "last_token",
    "max",
]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
LAYER_POOLINGS: tuple[Pooling, ...] = ("avg_first_last", "avg_embedding_last", "avg_top2")


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of the first real token, (B, L, D) -> (B, D): [CLS], wherever the padding is."""
    check_mask(states, mask)
    return _take(states, mask.ne(0).int().argmax(1))


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of the last real token, (B, L, D) -> (B, D), wherever the padding is."""
    check_mask(states, mask)
    from_end = mask.ne(0).int().flip(1).argmax(1)
    return _take(states, mask.shape[1] - 1 - from_end)


def marked_token(states: Tensor, marked: Tensor) -> Tensor:
    """State of the one marked token of every row.

    Args:
        states: (B, L, D).
        marked: (B, L) bool, True once per row.

    Returns:
        (B, D).

    Raises:
        ValueError: shapes do not fit, or (on the CPU) a row without or with several marks.
    """
    if marked.shape != states.shape[:2]:
        raise ValueError(f"need one mark per state {tuple(states.shape)}: {tuple(marked.shape)}")
    if marked.device.type == "cpu" and not bool(marked.sum(1).eq(1).all()):
        raise ValueError(
            "pooling 'mask' needs exactly one mask token in every text; put it into the template "
            "and keep the text short enough that truncation does not remove it"
        )
    return _take(states, marked.int().argmax(1))


def pool(
    hidden_states: Sequence[Tensor],
    mask: Tensor,
    pooling: Pooling,
    *,
    mask_tokens: Tensor | None = None,
) -> Tensor:
    """Pool the states of all layers by name.

    | pooling | state |
    |---|---|
    | cls, cls_before_pooler | last layer, first token; the head of "cls" is the caller's |
    | avg | mean over the tokens of the last layer |
    | avg_all | mean over all positions of the last layer, padding too |
    | avg_first_last | mean over the tokens of (layer 1 + last layer) / 2 (SimCSE's current code) |
    | avg_embedding_last | the same with the embedding output instead of layer 1 (the older one) |
    | avg_top2 | mean over the tokens of the mean of the last two layers |
    | mask | last layer, the mask token |
    | last_token | last layer, last token |
    | max | largest value of each dimension over the tokens of the last layer |

    Args:
        hidden_states: embedding output and the output of every block, each (B, L, D); poolings
            outside `LAYER_POOLINGS` need the last one only.
        mask: (B, L), non-zero at real tokens; every row has one.
        pooling: see the table.
        mask_tokens: (B, L) bool, True at the mask token; for "mask" only.

    Raises:
        ValueError: unknown name, shapes that do not fit, missing layers or `mask_tokens`, or (on
            the CPU) a row without a token or without exactly one mask token.
    """
    last = hidden_states[-1]
    if pooling in LAYER_POOLINGS:
        if len(hidden_states) < 2:
            raise ValueError(f"pooling {pooling!r} needs the states of all layers")
        layer = {"avg_first_last": 1, "avg_embedding_last": 0, "avg_top2": -2}[pooling]
        return mean_pool((hidden_states[layer] + last) / 2, mask)
    if pooling in ("cls", "cls_before_pooler"):
        return first_token(last, mask)
    if pooling == "avg":
        return mean_pool(last, mask)
    if pooling == "avg_all":
        return mean_pool(last, torch.ones_like(mask))
    if pooling == "mask":
        if mask_tokens is None:
            raise ValueError("pooling 'mask' needs `mask_tokens`, where the mask tokens are")
        return marked_token(last, mask_tokens)
    if pooling == "last_token":
        return last_token(last, mask)
    if pooling == "max":
        check_mask(last, mask)
        return last.masked_fill(mask.eq(0)[..., None], -torch.inf).amax(1)
    raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")


def _take(states: Tensor, position: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), position]
