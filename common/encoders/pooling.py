"""Poolers: token states of a transformer -> one vector per text, aware of padding.

Source: Gao et al. 2021, "SimCSE", arXiv 2104.08821, section 3.1 and official code (names).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "cls_before_pooler", "avg", "avg_first_last", "avg_top2", "last_token"]
POOLINGS: tuple[Pooling, ...] = (
    "cls",
    "cls_before_pooler",
    "avg",
    "avg_first_last",
    "avg_top2",
    "last_token",
)


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens.

    Args:
        states: (B, L, D).
        mask: (B, L), non-zero at real tokens; every row has one.

    Returns:
        (B, D) in the dtype of `states`; sums run in float32 at least.

    >>> mean_pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    _check(states, mask)
    wide = torch.promote_types(states.dtype, torch.float32)
    weights = mask.ne(0).to(wide).unsqueeze(-1)
    pooled = (states.to(wide) * weights).sum(1) / weights.sum(1)
    return pooled.to(states.dtype)


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of the first real token, (B, L, D) -> (B, D): [CLS], wherever the padding is."""
    _check(states, mask)
    return _take(states, mask.ne(0).int().argmax(1))


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of the last real token, (B, L, D) -> (B, D), wherever the padding is."""
    _check(states, mask)
    from_end = mask.ne(0).int().flip(1).argmax(1)
    return _take(states, mask.shape[1] - 1 - from_end)


def pool(hidden_states: Sequence[Tensor], mask: Tensor, pooling: Pooling) -> Tensor:
    """Pool the states of all layers by name.

    "avg_first_last" averages the embedding output (`hidden_states[0]`, as the official code does)
    and the last layer, "avg_top2" the last two layers. "cls" and "cls_before_pooler" take the same
    state; the head of "cls" is the caller's.

    Args:
        hidden_states: embedding output and the output of every block, each (B, L, D).
        mask: (B, L), non-zero at real tokens; every row has one.
        pooling: see `POOLINGS`.

    Raises:
        ValueError: unknown name, shapes that do not fit, or (on the CPU) a row without a token.
    """
    last = hidden_states[-1]
    if pooling in ("cls", "cls_before_pooler"):
        return first_token(last, mask)
    if pooling == "avg":
        return mean_pool(last, mask)
    if pooling == "avg_first_last":
        return mean_pool((hidden_states[0] + last) / 2, mask)
    if pooling == "avg_top2":
        return mean_pool((hidden_states[-2] + last) / 2, mask)
    if pooling == "last_token":
        return last_token(last, mask)
    raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")


def _take(states: Tensor, position: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), position]


def _check(states: Tensor, mask: Tensor) -> None:
    if states.ndim != 3 or mask.shape != states.shape[:2]:
        raise ValueError(
            f"need states (B, L, D) and mask (B, L), got {tuple(states.shape)} and "
            f"{tuple(mask.shape)}"
        )
    if mask.device.type == "cpu" and not bool(mask.ne(0).any(1).all()):
        raise ValueError("a row of the mask has no real token; there is nothing to pool")
