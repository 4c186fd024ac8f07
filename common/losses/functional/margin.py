"""Hinge losses on distances and scores: triplets, pairs, ranked candidates.

# B rows, C candidates, D dim
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..output import LossOutput, at_least_float32, check_pair, full_precision

Distance = Literal["euclidean", "squared", "cosine"]
DISTANCES = ("euclidean", "squared", "cosine")


def row_distance(x: Tensor, y: Tensor, distance: Distance) -> Tensor:
    """(B,) distance of row i of `x` and row i of `y`; the cosine distance is 1 - cosine."""
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {DISTANCES}, got {distance!r}")
    if distance == "cosine":
        return 1 - F.cosine_similarity(x, y, dim=-1)
    if distance == "squared":
        return (x - y).square().sum(-1)
    return F.pairwise_distance(x, y, eps=0)


@full_precision
def triplet(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 0.2,
    *,
    distance: Distance = "squared",
) -> LossOutput:
    """Hinge on the difference of the distances to a positive and to a negative.

        l_i = max(0, d(a_i, p_i) - d(a_i, n_i) + margin)

    Source: Schroff et al. 2015, "FaceNet", equation 3, arXiv 1503.03832.

    Args:
        anchor: (B, D).
        positive: (B, D).
        negative: (B, D).
        margin: >= 0, in units of the distance.
        distance: "euclidean", "squared" or "cosine".

    Returns:
        Mean over rows; hits: the positive is nearer than the negative.

    Raises:
        ValueError: an unknown distance, or different shapes.

    Distributed: local.

    >>> import torch
    >>> a, n = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    >>> triplet(a, a, n, margin=3.0).loss  # 0 - 1 + 3
    tensor(2.)
    """
    check_pair(anchor, positive, names="anchor, positive")
    check_pair(anchor, negative, names="anchor, negative")
    anchor, positive, negative = (at_least_float32(x) for x in (anchor, positive, negative))
    near = row_distance(anchor, positive, distance)
    far = row_distance(anchor, negative, distance)
    per_sample = (near - far + margin).relu()
    return LossOutput(per_sample.mean(), per_sample, (near < far).detach())


@full_precision
def margin_ranking(positive: Tensor, negative: Tensor, margin: float = 1.0) -> LossOutput:
    """Hinge on the difference of two scores.

        l_i = max(0, margin - s_i+ + s_i-)

    Source: Herbrich et al. 1999, "Support vector learning for ordinal regression".

    Args:
        positive: (B,) scores that should be higher.
        negative: (B,) scores that should be lower.
        margin: >= 0.

    Returns:
        Mean over rows; hits: the positive score is higher.

    Raises:
        ValueError: different shapes; both are printed.

    Distributed: local.

    >>> import torch
    >>> margin_ranking(torch.tensor([0.5]), torch.tensor([0.0])).loss
    tensor(0.5000)
    """
    if positive.shape != negative.shape or positive.ndim != 1:
        raise ValueError(
            "expected two score vectors of one length, got shapes "
            f"{tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    positive, negative = at_least_float32(positive), at_least_float32(negative)
    per_sample = (margin - positive + negative).relu()
    return LossOutput(per_sample.mean(), per_sample, (positive > negative).detach())


@full_precision
def candidate_ranking(
    candidates: Tensor,
    target: Tensor,
    margin: float = 0.01,
    target_margin: float = 0.0,
    *,
    target_on_top: bool = True,
    mask: Tensor | None = None,
    ranks: Tensor | None = None,
) -> LossOutput:
    """Candidates should score in their order of quality, and the target highest.

        L = mean_{b,c} max(0, s_bc - g_b + target_margin)
            + sum_{d=1}^{C-1} mean_{b, c} max(0, s_b(c+d) - s_bc + d * margin)

    With `ranks`, the pairs of distance d are those whose ranks differ by d. Candidates of equal
    rank form no pair.

    Source: Liu and Liu 2021, "SimCLS", equation 3, arXiv 2106.01890.

    Args:
        candidates: (B, C) scores, best candidate first.
        target: (B,) scores of the gold text.
        margin: >= 0, per step of rank.
        target_margin: >= 0.
        target_on_top: False reverses the target term, as in the released WikiDes code: candidates
            should score above the target.
        mask: (B, C) bool, False where a row has no candidate; the means over c are then those over
            the row's own candidates and pairs, and a row without a pair of distance d adds nothing.
        ranks: (B, C) whole numbers from 0, the best; None: the places, 0 to C - 1.

    Returns:
        The loss; per sample its share; hits: a candidate of rank 0 scores highest.

    Raises:
        ValueError: shapes that do not fit; the message has them.

    Distributed: local.

    >>> import torch
    >>> candidate_ranking(torch.tensor([[1.0, 0.0]]), torch.tensor([0.5])).loss  # 0.5 / 2
    tensor(0.2500)
    """
    if candidates.ndim != 2 or target.shape != candidates.shape[:1]:
        raise ValueError(
            "expected candidates (B, C) and target (B,), got shapes "
            f"{tuple(candidates.shape)} and {tuple(target.shape)}"
        )
    if mask is None:
        mask = torch.ones_like(candidates, dtype=torch.bool)
    if mask.shape != candidates.shape:
        raise ValueError(
            f"expected a mask {tuple(candidates.shape)} like candidates, got {tuple(mask.shape)}"
        )
    if ranks is None:
        ranks = torch.arange(candidates.shape[1], device=candidates.device).expand_as(candidates)
    if ranks.shape != candidates.shape:
        raise ValueError(
            f"expected ranks {tuple(candidates.shape)} like candidates, got {tuple(ranks.shape)}"
        )
    candidates, target = at_least_float32(candidates), at_least_float32(target)
    above = candidates - target[:, None]
    per_sample = _row_mean(((above if target_on_top else -above) + target_margin).relu(), mask)
    # (B, better, worse)
    distance = ranks[:, None, :] - ranks[:, :, None]
    pairs = mask[:, None, :] & mask[:, :, None]
    step = (candidates[:, None, :] - candidates[:, :, None] + distance * margin).relu()
    for d in range(1, candidates.shape[1]):
        chosen = pairs & (distance == d)
        per_sample = per_sample + _row_mean(step.flatten(1), chosen.flatten(1))
    highest = candidates.detach().masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
    return LossOutput(per_sample.mean(), per_sample, ranks.gather(1, highest)[:, 0] == 0)


def _row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) means over the chosen entries of each row, 0 where there are none."""
    return values.where(mask, 0).sum(-1) / mask.sum(-1).clamp(min=1)
