"""Distillation: divergence of softened outputs, and contrast with a teacher's embeddings.

# N rows, D dim; B rows, C classes or tokens
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..output import LossOutput, at_least_float32, check_pair, full_precision, mean_rows

Denominator = Literal["with_positive", "literal", "literal_self"]


def softened_divergence(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    reduction: Literal["row", "element"] = "row",
) -> Tensor:
    """tau^2 KL(softmax(teacher / tau) || softmax(student / tau)); no gradient to the teacher.

    Source: Hinton et al. 2015, section 2, arXiv 1503.02531.

    Args:
        student: (B, C) logits; columns beyond the teacher's (new classes) are ignored.
        teacher: (B, C_old) logits, C_old <= C.
        temperature: tau > 0.
        reduction: "row" gives the divergence of every row (B,); "element" the mean over rows and
            columns, the scale of some continual-learning code.

    Raises:
        ValueError: shapes that do not fit, a temperature <= 0, or an unknown reduction.

    >>> import torch
    >>> softened_divergence(torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p()).round(decimals=4)
    tensor([0.1927])
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if reduction not in ("row", "element"):
        raise ValueError(f"reduction must be 'row' or 'element', got {reduction!r}")
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


def squared_logit_error(student: Tensor, teacher: Tensor) -> Tensor:
    """1/B sum_b ||student_b - teacher_b||^2, summed over classes, without gradient to the teacher.

    No temperature and no softmax. Source: Ba & Caruana 2014, section 2.2, arXiv 1312.6184; Barkan
    et al. 2020, arXiv 1908.05161.

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits.

    Returns:
        Scalar, mean over the batch.

    Raises:
        ValueError: shapes that differ or are not (B, C).

    Distributed: local.

    >>> squared_logit_error(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(5.)
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"logits must both be (B, C), got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    return (student - teacher.detach()).square().sum(1).mean()


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


def mixed(distillation: Tensor, task: Tensor, weight: float) -> Tensor:
    """Convex sum: weight * distillation + (1 - weight) * task."""
    return weight * distillation + (1 - weight) * task


@full_precision
def teacher_sup_con(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    anchors: Tensor,
    scale: Tensor | float,
    *,
    negatives: Tensor | None = None,
    positive_bank: Literal["teacher", "student"] = "teacher",
    negative_bank: Literal["teacher", "student"] = "student",
    denominator: Denominator = "with_positive",
) -> LossOutput:
    """Supervised contrastive loss whose positives and negatives come from different encoders.

    Anchors h_i are student vectors of some rows R; positives p of the same label are rows of R in
    the positive bank, negatives a are rows of A in the negative bank.

        P(i) = {p in R: y_p = y_i}       (without i itself if the positives are the student's)
        l_i = -1/|P(i)| * sum_{p in P(i)} log [exp(s_ip) / D_ip]
        literal:        D_ip = sum_{a in A, a != i} exp(s_ia)
        literal_self:   D_ip = sum_{a in A or a = i} exp(s_ia)
        with_positive:  literal, and the positive of the numerator where the banks differ; of one
            bank
                        A and P(i) unite: all positives of the row, each vector counted once

    Teacher positives with student negatives is NSPT, teacher and teacher is NTPT, student and
    student is SupCon on the rows R.

    Source: Cappellazzo et al. 2024, equation 5, arXiv 2310.02699 (NSPT); Khosla et al. 2020,
    equation 2, arXiv 2004.11362 (SupCon).

    Args:
        student: (N, D), L2-normalised, with gradient.
        teacher: (N, D), L2-normalised; detached here. Rows that no set uses may have any finite
            value.
        labels: (N,) int64.
        anchors: (N,) bool, the set R.
        scale: > 0, multiplies the similarities (1 / temperature).
        negatives: (N,) bool, the set A; None: all rows.
        positive_bank: encoder of the positives.
        negative_bank: encoder of the negatives.
        denominator: see above; "literal" may be negative.

    Returns:
        Mean over anchors that have a positive and a denominator, 0 if there are none; other rows
        have loss 0. No hits.

    Raises:
        ValueError: an unknown option, or shapes that do not fit.

    Distributed: local; pass the gathered rows of all ranks, and every rank computes the whole loss.

    >>> h = torch.eye(2)  # one rehearsal row, one current row, temperature 1
    >>> rows = torch.tensor([True, False])
    >>> teacher_sup_con(h, h, torch.tensor([0, 1]), rows, 1.0).loss.round(decimals=4)
    tensor(0.3133)
    """
    _check(student, teacher, labels, anchors, positive_bank, negative_bank, denominator)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    banks = {"teacher": teacher.detach(), "student": student}
    diagonal = torch.eye(len(student), dtype=torch.bool, device=student.device)
    positive = (labels[:, None] == labels) & anchors[:, None] & anchors[None, :]
    if positive_bank == "student":
        positive = positive & ~diagonal
    pool = (
        torch.ones_like(diagonal)
        if negatives is None
        else negatives[None, :] & ~diagonal | diagonal
    )
    pool = pool if denominator == "literal_self" else pool & ~diagonal
    if denominator == "with_positive" and positive_bank == negative_bank:
        pool = pool | positive  # one encoder: a union that counts each vector once
    s_positive = scale * student @ banks[positive_bank].T
    s_negative = scale * student @ banks[negative_bank].T
    lowest = torch.finfo(s_negative.dtype).min
    log_sum = s_negative.masked_fill(~pool, lowest).logsumexp(1, keepdim=True)  # Eq. 5, denominator
    valid = positive.any(1)
    if denominator == "with_positive" and positive_bank != negative_bank:
        log_sum = torch.logaddexp(log_sum, s_positive)
    else:
        valid = valid & pool.any(1)
    terms = torch.where(positive & valid[:, None], log_sum - s_positive, 0)
    per_sample = terms.sum(1) / positive.sum(1).clamp(min=1)
    return LossOutput(mean_rows(per_sample, valid), per_sample, None)


def _check(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    anchors: Tensor,
    positive_bank: str,
    negative_bank: str,
    denominator: str,
) -> None:
    check_pair(student, teacher, names="student, teacher")
    if labels.shape != student.shape[:1] or anchors.shape != student.shape[:1]:
        raise ValueError(
            f"one label and one anchor flag per row: got {tuple(labels.shape)} and "
            f"{tuple(anchors.shape)} for embeddings {tuple(student.shape)}"
        )
    if denominator not in get_args(Denominator):
        raise ValueError(f"denominator must be one of {get_args(Denominator)}, got {denominator!r}")
    if {positive_bank, negative_bank} - {"teacher", "student"}:
        raise ValueError(
            f"banks are 'teacher' or 'student', got {positive_bank!r} and {negative_bank!r}"
        )
