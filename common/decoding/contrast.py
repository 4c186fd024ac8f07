"""Contrast of two next-token distributions, as pure functions of logits.

# ... any leading sizes (B rows, T places), V vocabulary
"""

import math

import torch
from torch import Tensor


def contrast(
    expert_logits: Tensor,
    amateur_logits: Tensor,
    *,
    alpha: float,
    beta: float = 1.0,
) -> Tensor:
    """Weighted difference of log-probabilities among the tokens that the expert finds plausible.

        s(v) = log p_exp(v) - beta log p_ama(v)   if p_exp(v) >= alpha max_w p_exp(w)
        -inf                                      otherwise

    As a choice or under a softmax it equals the difference of logits, from which it differs by a
    constant of the place; sums over places do not.

    Source: Li et al. 2023, "Contrastive Decoding", equations 2 to 4, arXiv 2210.15097.

    Args:
        expert_logits: (..., V); decides alone what is plausible.
        amateur_logits: (..., V), of the same places and vocabulary.
        alpha: in [0, 1]; 0 removes nothing, 1 leaves the expert's likeliest token (and its equals).
        beta: weight of the amateur, >= 0; 0 leaves the expert's log-probabilities.

    Returns:
        (..., V) in float32, or float64 where the expert has it.

    Raises:
        ValueError: logits of different shapes.

    >>> expert, amateur = torch.tensor([4.0, 3.0, 0.0]), torch.tensor([4.0, 1.0, 0.0])
    >>> [round(float(s), 2) for s in contrast(expert, amateur, alpha=0.1)]
    [-0.26, 1.74, -inf]
    """
    if expert_logits.shape != amateur_logits.shape:
        raise ValueError(
            f"expert {tuple(expert_logits.shape)} and amateur {tuple(amateur_logits.shape)} must"
            " have the same places and vocabulary"
        )
    expert = log_probabilities(expert_logits)
    score = expert
    if beta:  # 0 times -inf is not a number
        score = expert - beta * log_probabilities(amateur_logits)  # Eq. 2
    return score.masked_fill(~plausible(expert, alpha), -math.inf)


def plausible(log_p: Tensor, alpha: float) -> Tensor:
    """Tokens whose probability is at least alpha times the largest one.

    Source: Li et al. 2023, equation 3, arXiv 2210.15097.

    Args:
        log_p: (..., V) log-probabilities, or logits.
        alpha: in [0, 1]; 0 keeps all.

    Returns:
        (..., V) bool, never without any at a place.

    Raises:
        ValueError: alpha out of its range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if alpha == 0:
        return torch.ones_like(log_p, dtype=torch.bool)
    return log_p >= log_p.amax(-1, keepdim=True) + math.log(alpha)  # Eq. 3


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, in float32 at least."""
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)
