"""Mean of states over all but padding, whatever the states stand for."""

import torch
from torch import Tensor


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real tokens or frames.

    Args:
        states: (B, L, D).
        mask: (B, L), non-zero at real tokens; every row has one.

    Returns:
        (B, D) in the dtype of `states`; sums run in float32 at least.

    >>> mean_pool(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    check_mask(states, mask)
    wide = torch.promote_types(states.dtype, torch.float32)
    weights = mask.ne(0).to(wide).unsqueeze(-1)
    pooled = (states.to(wide) * weights).sum(1) / weights.sum(1)
    return pooled.to(states.dtype)


def check_mask(states: Tensor, mask: Tensor) -> None:
    """Refuse a mask that does not fit its states.

    Args:
        states: (B, L, D).
        mask: (B, L), non-zero at real tokens.

    Raises:
        ValueError: other shapes, or (on a CPU) a row without a real token.
    """
    if states.ndim != 3 or mask.shape != states.shape[:2]:
        raise ValueError(
            f"need states (B, L, D) and mask (B, L), got {tuple(states.shape)} and "
            f"{tuple(mask.shape)}"
        )
    if mask.device.type == "cpu" and not bool(mask.ne(0).any(1).all()):
        raise ValueError("a row of the mask has no real token; there is nothing to pool")
