"""Knowledge distillation on outputs: divergence of softened distributions, and mixing weights.

# B rows, C classes or tokens
"""

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def softened_divergence(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    reduction: Literal["row", "element"] = "row",
) -> Tensor:
    """tau^2 * KL(softmax(teacher / tau) || softmax(student / tau)), without gradient to the teacher.

    Source: Hinton et al. 2015, section 2, arXiv 1503.02531.

    Args:
        student: (B, C) logits; columns beyond those of the teacher (new classes) are left out.
        teacher: (B, C_old) logits, C_old <= C.
        temperature: tau > 0.
        reduction: "row" gives the divergence of every row (B,); "element" the mean over rows and
            columns, the scale of some continual-learning code.

    Raises:
        ValueError: shapes that do not fit, or a temperature <= 0.

    >>> import torch
    >>> softened_divergence(torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p()).round(decimals=4)
    tensor([0.1927])
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if student.ndim != 2 or len(student) != len(teacher) or teacher.shape[1] > student.shape[1]:
        raise ValueError(
            "student logits (B, C) and teacher logits (B, C_old <= C), got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    old = student[:, : teacher.shape[1]]
    log_p = F.log_softmax(old / temperature, 1)
    log_q = F.log_softmax(teacher.detach() / temperature, 1)
    pointwise = temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True)
    return pointwise.mean() if reduction == "element" else pointwise.sum(1)


def rehearsal_weight(num_memory: float, num_samples: float) -> float:
    """Share alpha = sqrt(|I_r| / |I|) in ``alpha KD + (1 - alpha) CE``.

    Source: Cappellazzo et al. 2023, "Sequence-Level Knowledge Distillation for Class-Incremental
    End-to-End Spoken Language Understanding", arXiv 2305.13899, and the authors' code.

    Args:
        num_memory: rehearsal samples of the batch.
        num_samples: samples of the batch, > 0.

    >>> rehearsal_weight(8, 32)
    0.5
    """
    return math.sqrt(num_memory / num_samples)


def old_class_weight(num_old: int, num_new: int) -> float:
    """log(1 + old / new), the same share for a growing classifier in the authors' earlier code.

    >>> round(old_class_weight(4, 6), 4)
    0.5108
    """
    return math.log(1 + num_old / num_new)


def mixed(distillation: Tensor, task: Tensor, weight: float) -> Tensor:
    """Convex sum: weight * distillation + (1 - weight) * task."""
    return weight * distillation + (1 - weight) * task
