"""COCONUT's two contrastive terms, as functions of embeddings.

# N rows of all ranks, D dim
"""

import torch
from torch import Tensor

from common.losses.auxiliary.distillation import teacher_sup_con
from common.losses.functional.info_nce import clip
from projects.coconut.config import MethodConfig

BANKS = {  # design -> (bank of the positives, bank of the negatives)
    "nspt": ("teacher", "student"),
    "ntpt": ("teacher", "teacher"),
    "nsps": ("student", "student"),
}


def nspt_loss(
    method: MethodConfig, student: Tensor, teacher: Tensor, labels: Tensor, is_memory: Tensor
) -> Tensor:
    """Negative-student positive-teacher loss of one modality.

        L = -1/|I_r| sum_{i in I_r} 1/|P(i)| sum_{p in P(i)}
              log [exp(h_i h^_p / tau) / D_ip],     P(i) = {p in I_r: y_p = y_i}

    h are student, h^ (detached) teacher embeddings. The denominator holds the student embeddings of
    all other rows, and by default the positive of the numerator; see `method.denominator`. That is
    NSPT; the positives and negatives of `ntpt` and `nsps` are of one encoder, and all positives of
    the row count.

    Source: Cappellazzo et al. 2024, equation 5, arXiv 2310.02699.

    Args:
        method: design, anchors, negatives, denominator, temperature.
        student: (N, D) unit rows.
        teacher: (N, D) unit rows; those are read that `teacher_rows` names.
        labels: (N,) int64.
        is_memory: (N,) bool, I_r.

    Returns:
        Scalar; 0 (with a zero gradient) if no row is an anchor.

    Distributed: local; takes the gathered rows of all ranks.
    """
    positive_bank, negative_bank = BANKS[method.design]
    anchors = is_memory if method.anchors == "rehearsal" else torch.ones_like(is_memory)
    return teacher_sup_con(  # Eq. 5
        student,
        teacher,
        labels,
        anchors,
        1 / method.temperature,
        negatives=~is_memory if method.negatives == "current" else None,
        positive_bank=positive_bank,  # type: ignore[arg-type]
        negative_bank=negative_bank,  # type: ignore[arg-type]
        denominator=method.denominator,
    ).loss


def teacher_rows(method: MethodConfig, is_memory: Tensor) -> Tensor:
    """(B,) bool rows whose teacher embedding the loss reads: the rehearsal rows by default."""
    everything = method.anchors == "all" or method.design == "ntpt"
    return torch.ones_like(is_memory) if everything else is_memory


def mm_loss(audio: Tensor, text: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE between student audio and student text embeddings of some rows.

    Source: Cappellazzo et al. 2024, section 3.3, arXiv 2310.02699.

    Args:
        audio: (N, D) unit rows.
        text: (N, D) unit rows.
        rows: (N,) bool, the set S; empty: 0 with a zero gradient.
        temperature: tau > 0.

    Distributed: local; takes the gathered rows of all ranks.
    """
    if not bool(rows.any()):
        return 0.0 * (audio.sum() + text.sum())
    return clip(audio[rows], text[rows], 1 / temperature).loss  # L_MM, section 3.3


def nspt_weight(method: MethodConfig, num_past: int, num_seen: int) -> float:
    """lambda_NSPT, times past / seen classes if `method.nspt_ratio`.

    >>> nspt_weight(MethodConfig(nspt_weight=0.5), 6, 8)
    0.375
    """
    ratio = num_past / num_seen if method.nspt_ratio else 1.0
    return method.nspt_weight * ratio
