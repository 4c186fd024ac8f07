"""Scale-invariant fine-tuning (SiFT): predictions robust to small changes of embeddings.

# R rows, C classes
"""

from torch import Tensor
from torch.nn import functional as F

from common.losses.output import at_least_float32, full_precision


@full_precision
def symmetric_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """-sum_c [t_c log s_c + s_c log t_c] of softmax distributions s and t, of every row.

    Its value is the symmetric KL divergence plus the two entropies. The probabilities that weight
    are constants, so that the gradient is s - t in the student's logits and t - s in the teacher's.

    Source: He et al. 2021, "DeBERTa", section 4 (SiFT), arXiv 2006.03654; released code.

    Args:
        student: (R, C) logits, of changed inputs.
        teacher: (R, C) logits, of clean ones.

    Returns:
        (R,).

    Raises:
        ValueError: shapes that differ.

    Distributed: local.

    >>> import torch
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

    >>> import torch
    >>> teacher_cross_entropy(torch.zeros(1, 2), torch.tensor([[9.0, 0.0]])).exp().round(decimals=4)
    tensor([2.])
    """
    log_s, log_t = _log_probabilities(student, teacher)
    return -(log_t.exp().detach() * log_s).sum(1)


def _log_probabilities(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"logits {tuple(student.shape)} and {tuple(teacher.shape)} differ")
    return F.log_softmax(at_least_float32(student), 1), F.log_softmax(at_least_float32(teacher), 1)
