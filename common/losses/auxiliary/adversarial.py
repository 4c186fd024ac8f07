"""Scale-invariant fine-tuning (SiFT): predictions that a small change of the embeddings leaves alone.

# R rows, C classes, D dim
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.losses.output import full_precision

EPSILON = 1e-6  # added to the largest entry of a gradient before it divides


@full_precision
def symmetric_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum_c [t_c log s_c + s_c log t_c] of softmax distributions s and t, of every row.

    Its value is the symmetric KL divergence plus the two entropies. The probabilities that weight are
    constants, so that the gradient is s - t in the student's logits and t - s in the teacher's.

    Source: He et al. 2021, "DeBERTa", section 4 (SiFT), arXiv 2006.03654; released code.

    Args:
        student: (R, C) logits, of changed inputs.
        teacher: (R, C) logits, of clean ones.

    Returns:
        (R,).

    Raises:
        ValueError: shapes that differ.

    Distributed: local.

    >>> symmetric_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2)).exp().round(decimals=4)  # 2 log 2
    tensor([4.])
    """
    log_s, log_t = _log_probabilities(student, teacher)
    return -(log_t.exp().detach() * log_s + log_s.exp().detach() * log_t).sum(1)


@full_precision
def teacher_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum_c t_c log s_c of every row: one direction, no gradient into the teacher.

    Source: He et al. 2021, section 4, arXiv 2006.03654; released code ("kl").

    Args:
        student: (R, C) logits.
        teacher: (R, C) logits.

    Returns:
        (R,).

    Raises:
        ValueError: shapes that differ.

    Distributed: local.

    >>> teacher_cross_entropy(torch.zeros(1, 2), torch.tensor([[9.0, 0.0]])).exp().round(decimals=4)
    tensor([2.])
    """
    log_s, log_t = _log_probabilities(student, teacher)
    return -(log_t.exp().detach() * log_s).sum(1)


def first_perturbation(like: Tensor, std: float) -> Tensor:
    """N(0, std^2) clipped to two deviations, from the global random state, in float32 at least.

    Source: He et al. 2021, section 4, arXiv 2006.03654; released code.

    Args:
        like: (..., D), gives shape and device.
        std: > 0.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    return torch.randn_like(like, dtype=wide).mul_(std).clamp_(-2 * std, 2 * std)


def perturbation_step(delta: Tensor, grad: Tensor, step: float) -> Tensor:
    """One ascent step: delta + step * g / (max_d |g_d| + 1e-6), the maximum over the last dimension.

    Source: He et al. 2021, section 4, arXiv 2006.03654; released code.

    Args:
        delta: (..., D).
        grad: (..., D), of the loss to raise.
        step: epsilon, > 0.

    >>> perturbation_step(torch.zeros(1, 2), torch.tensor([[4.0, -2.0]]), 0.1).round(decimals=4)
    tensor([[ 0.1000, -0.0500]])
    """
    return (delta + step * grad / (EPSILON + grad.abs().amax(-1, keepdim=True))).detach()


def _log_probabilities(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"logits {tuple(student.shape)} and {tuple(teacher.shape)} differ")
    return F.log_softmax(student, 1), F.log_softmax(teacher, 1)
