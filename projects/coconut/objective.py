"""COCONUT's two contrastive terms and the distillation baselines, as functions of embeddings.

# N rows of all ranks, D dim
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.speech.transcripts import PAD
from common.distributed.differentiable import all_reduce_sum
from common.distributed.process import world_size
from common.losses.functional.info_nce import clip
from common.losses.functional.teacher_student import teacher_sup_con
from projects.coconut.config import MethodConfig

BANKS = {  # design -> (bank of the positives, bank of the negatives)
    "nspt": ("teacher", "student"),
    "ntpt": ("teacher", "teacher"),
    "nsps": ("student", "student"),
}


class Embeddings(NamedTuple):
    """Student and teacher embeddings of one modality, unit rows (N, D)."""

    student: Tensor
    teacher: Tensor


def nspt_loss(
    method: MethodConfig, embeddings: Embeddings, labels: Tensor, is_memory: Tensor
) -> Tensor:
    """Negative-student positive-teacher loss of one modality.

        L = -1/|I_r| sum_{i in I_r} 1/|P(i)| sum_{p in P(i)}
              log [exp(h_i h^_p / tau) / D_ip],     P(i) = {p in I_r: y_p = y_i}

    h are student, h^ (detached) teacher embeddings. The denominator holds the student embeddings of
    all other rows, and by default the positive of the numerator; see `method.denominator`.

    Source: Cappellazzo et al. 2024, equation 5, arXiv 2310.02699.

    Args:
        method: design, anchors, negatives, denominator, temperature.
        embeddings: of the whole batch; teacher rows are read where `method` needs them only.
        labels: (N,) int64.
        is_memory: (N,) bool, I_r.

    Returns:
        Scalar; 0 (with a zero gradient) if no row is an anchor.

    Distributed: local; takes the gathered rows of all ranks.
    """
    positive_bank, negative_bank = BANKS[method.design]
    anchors = is_memory if method.anchors == "rehearsal" else torch.ones_like(is_memory)
    return teacher_sup_con(  # Eq. 5
        embeddings.student,
        embeddings.teacher,
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

        L = -1/(2|S|) sum_{i in S} [log softmax_k(a_i t_k / tau)_i + log softmax_k(t_i a_k / tau)_i]

    Source: Cappellazzo et al. 2024, section 3.3, arXiv 2310.02699.

    Args:
        audio: (N, D) unit rows.
        text: (N, D) unit rows.
        rows: (N,) bool, the set S.
        temperature: tau > 0.

    Returns:
        Scalar; 0 (with a zero gradient) if S is empty.

    Distributed: local; takes the gathered rows of all ranks.
    """
    if not bool(rows.any()):
        return 0.0 * (audio.sum() + text.sum())
    return clip(audio[rows], text[rows], 1 / temperature).loss


def nspt_weight(method: MethodConfig, num_past: int, num_seen: int) -> float:
    """lambda_NSPT, times past / seen classes if `method.nspt_ratio`.

    >>> nspt_weight(MethodConfig(nspt_weight=0.5), 6, 8)
    0.375
    """
    ratio = num_past / num_seen if method.nspt_ratio else 1.0
    return method.nspt_weight * ratio


# -- token losses --------------------------------------------------------------------------------


def token_sums(
    logits: Tensor, tokens: Tensor, *, label_smoothing: float = 0.0, count_pad: bool = False
) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the tokens of each row, and how many count.

    Args:
        logits: (B, L - 1, V) under teacher forcing.
        tokens: (B, L) with the start token.
        label_smoothing: in [0, 1).
        count_pad: padding counts as a token to predict.

    Returns:
        (B,) sums and (B,) counts.
    """
    target = tokens[:, 1:]
    ce = F.cross_entropy(
        logits.float().transpose(1, 2),
        target,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    counts = torch.ones_like(ce) if count_pad else target.ne(PAD).to(ce.dtype)
    return (ce * counts).sum(1), counts.sum(1)


def mean_over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """This rank's share of a mean over the items of all ranks; its mean over ranks is that mean.

    Args:
        total: sum over the local items, with gradient.
        count: number of local items; without any on all ranks the result is 0.
    """
    return total * (world_size() / all_reduce_sum(count.detach()).clamp(min=1))
