"""Losses of rankers on groups of scores, the relevant candidate first.

# B groups, G candidates
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..output import LossOutput, at_least_float32, full_precision
from .margin import margin_ranking

RankingLoss = Literal["hinge", "softmax_hinge", "groupwise"]


def ranking_loss(
    scores: Tensor, kind: RankingLoss = "groupwise", margin: float = 1.0
) -> LossOutput:
    """One of the losses below on groups of scores; the hinges take groups of two.

    Args:
        scores: (B, G), the relevant candidate first.
        kind: "hinge" (`margin_ranking`), "softmax_hinge" or "groupwise".
        margin: of the hinges, >= 0.

    Raises:
        ValueError: scores of another shape, or an unknown kind.

    >>> float(ranking_loss(torch.tensor([[2.0, 1.5]]), "hinge").loss)
    0.5
    """
    if kind not in ("hinge", "softmax_hinge", "groupwise"):
        raise ValueError(f"ranking loss '{kind}': use hinge, softmax_hinge or groupwise")
    if kind == "groupwise":
        return groupwise(scores)
    _check(scores, 2)
    positive, negative = scores.unbind(1)
    if kind == "hinge":
        return margin_ranking(positive, negative, margin)
    return softmax_hinge(positive, negative, margin)


@full_precision
def softmax_hinge(positive: Tensor, negative: Tensor, margin: float = 1.0) -> LossOutput:
    """Hinge on the two probabilities that a softmax makes of the scores of a pair.

        l_i = max(0, margin - p_i+ + p_i-),  (p+, p-) = softmax(s+, s-)

    With margin 1 it is 2 p-, which is never zero and whose gradient vanishes for pairs that are
    clearly right or clearly wrong.

    Source: Ma et al. 2021, "PROP", released code (the text has the hinge on raw scores),
    arXiv 2010.10137.

    Args:
        positive: (B,) scores that should be higher.
        negative: (B,) scores that should be lower.
        margin: >= 0.

    Returns:
        Mean over rows; hits: the positive score is higher.

    Raises:
        ValueError: different shapes; both are printed.

    Distributed: local.

    >>> float(softmax_hinge(torch.zeros(1), torch.zeros(1)).loss)
    1.0
    """
    if positive.shape != negative.shape or positive.ndim != 1:
        raise ValueError(
            "expected two score vectors of one length, got shapes "
            f"{tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    both = torch.stack([at_least_float32(positive), at_least_float32(negative)], dim=1)
    p = both.softmax(1)
    per_sample = (margin - p[:, 0] + p[:, 1]).relu()
    return LossOutput(per_sample.mean(), per_sample, (positive > negative).detach())


@full_precision
def groupwise(scores: Tensor) -> LossOutput:
    """Cross-entropy of the relevant candidate within its group; of two: logistic loss of a pair.

        l_b = -log exp(s_b1) / sum_g exp(s_bg)

    Source: Cao et al. 2007, "Learning to rank: from pairwise to listwise approach" (ListNet, top
    one); of two candidates: Burges et al. 2005, "RankNet".

    Args:
        scores: (B, G), the relevant candidate first.

    Returns:
        Mean over groups; hits: the relevant candidate scores highest.

    Raises:
        ValueError: scores of another shape, or groups of one.

    Distributed: local.

    >>> f"{float(groupwise(torch.zeros(1, 4)).loss):.4f}"  # log 4
    '1.3863'
    """
    _check(scores)
    scores = at_least_float32(scores)
    first = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    per_sample = F.cross_entropy(scores, first, reduction="none")
    hits = (scores[:, 0] > scores[:, 1:].amax(1)).detach()
    return LossOutput(per_sample.mean(), per_sample, hits)


def _check(scores: Tensor, size: int | None = None) -> None:
    if scores.ndim != 2 or scores.shape[1] < 2 or (size is not None and scores.shape[1] != size):
        expected = f"(B, {size})" if size is not None else "(B, G) with G > 1"
        raise ValueError(f"expected scores {expected}, got shape {tuple(scores.shape)}")
