"""The objective: answers, spans, contrast of a masked input with the question's candidates.

The paper's formulas could not be read; these are the reconstruction of its text that the card
describes.

# B questions, A candidates, N sentences, D dim
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.differentiable import rank_mean_of_sums
from common.losses.output import full_precision


def answer_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the right candidate; in pre-training the candidates are questions.

        L_QA = -log softmax(o)_y,   o_i = o_i^T + o_i^V

    Source: Kim et al. 2021, arXiv 2009.08043 (one answer distribution over both streams).

    Args:
        scores: (B, A).
        labels: (B,) int64.

    Returns:
        Scalar, mean over B. Distributed: local (ranks have equally many questions).

    >>> round(float(answer_loss(torch.zeros(1, 5), torch.tensor([2]))), 4)  # log 5
    1.6094
    """
    return F.cross_entropy(scores.float(), labels)


@full_precision
def candidate_logits(
    masked: Tensor,
    candidates: Tensor,
    similarity: Literal["dot", "cosine"] = "dot",
    temperature: float = 1.0,
) -> Tensor:
    """Similarity of a masked right answer to the A candidates of its own question, over tau.

    Args:
        masked: (B, D), the right candidate's input with masked tokens.
        candidates: (B, A, D), the same question's unmasked inputs.
        similarity: "dot" or "cosine".
        temperature: tau > 0.

    Returns:
        (B, A): no candidate of another question is ever among them.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if candidates.ndim != 3 or masked.shape != candidates[:, 0].shape:
        raise ValueError(
            f"expected (B, D) and (B, A, D), got {tuple(masked.shape)} and"
            f" {tuple(candidates.shape)}"
        )
    masked, candidates = masked.float(), candidates.float()
    if similarity == "cosine":
        masked, candidates = F.normalize(masked, dim=-1), F.normalize(candidates, dim=-1)
    return torch.einsum("bd,bad->ba", masked, candidates) / temperature


@full_precision  # bfloat16 has no logit between 144 and 145
def masked_contrast(
    masked: Tensor,
    candidates: Tensor,
    labels: Tensor,
    *,
    similarity: Literal["dot", "cosine"] = "dot",
    temperature: float = 1.0,
    stop_gradient: bool = False,
) -> Tensor:
    """Contrast of the masked right answer: its unmasked form against the other A - 1 candidates.

        L_con = -log exp(sim(z~_y, z_y) / tau) / sum_{i=1..A} exp(sim(z~_y, z_i) / tau)

    Source: Kim et al. 2021, arXiv 2009.08043 (an answer distribution by contrasting the positive
    pair with negative pairs); similarity and tau are not confirmed.

    Args:
        masked: (B, D).
        candidates: (B, A, D).
        labels: (B,) int64, the right candidates.
        similarity: "dot" or "cosine".
        temperature: tau > 0.
        stop_gradient: no gradient into `candidates`.

    Returns:
        Scalar, mean over B. Distributed: local.

    >>> z = torch.tensor([[[1.0], [0.0]]])
    >>> round(float(masked_contrast(z[:, 0], z, torch.tensor([0]))), 4)  # log(1 + 1/e)
    0.3133
    """
    candidates = candidates.detach() if stop_gradient else candidates
    logits = candidate_logits(masked, candidates, similarity, temperature)
    return F.cross_entropy(logits, labels)


def localisation_loss(logits: Tensor, mask: Tensor, spans: Tensor) -> Tensor:
    """Where the answer is: first and last sentence that overlap the annotated span.

        L_loc = -1/2 [log p^st_{j_s} + log p^en_{j_e}]

    Source: Kim et al. 2021, arXiv 2009.08043 (temporal localisation as a further auxiliary task).

    Args:
        logits: (B, N, 2), of starts and of ends.
        mask: (B, N) bool, False at padding.
        spans: (B, 2) int64; negative without an annotated span: such questions have no loss.

    Returns:
        Scalar, mean over the questions of all ranks that have a span; 0 without any.
        Distributed: reduces statistics (their number).

    >>> spans = torch.tensor([[0, 1], [-100, -100]])
    >>> loss = localisation_loss(torch.zeros(2, 2, 2), torch.ones(2, 2).bool(), spans)
    >>> round(float(loss), 4)  # log 2
    0.6931
    """
    labelled = (spans >= 0).all(1)
    lowest = torch.finfo(torch.float32).min
    wide = logits.float().masked_fill(~mask[..., None], lowest).log_softmax(1)
    picked = wide.gather(1, spans.clamp(min=0)[:, None])[:, 0]  # (B, 2)
    loss = -0.5 * picked.sum(1)
    return rank_mean_of_sums(loss.masked_fill(~labelled, 0.0).sum(), labelled.sum().to(loss.dtype))
