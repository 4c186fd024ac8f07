"""Losses on two views of every sample: NT-Xent, decoupled, debiased, hard-negative weighted.

# B samples of this rank, N of all ranks, 2B anchors (view 1, then view 2), D dim

Each loss is a formula of two numbers per anchor: the log-sum of its negatives and the logit of its
positive.
"""

import math
from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from ...distributed.differentiable import all_gather_with_grad
from ...kernels.specs.weights import ExcludePositive, nt_xent_spec
from ..output import LossOutput, check_pair, full_precision
from . import equations
from .kernel import (
    KernelOptions,
    as_scale,
    count_rows,
    mean_loss,
    process_group,
    row_counts,
    runs_plain,
    sweep,
)


class AnchorScores(NamedTuple):
    """Scores of the anchors, view 1 then view 2.

    Attributes:
        negatives: (2B,) log-sum over the 2N - 2 vectors of other samples.
        positive: (2B,) logit of the other view.
        hits: (B,) bool, view 1 finds view 2.
    """

    negatives: Tensor
    positive: Tensor
    hits: Tensor


def stacked(view_1: Tensor, view_2: Tensor) -> Tensor:
    """(2B, D) anchors: view 1, then view 2.

    Raises:
        ValueError: views of different shape.
    """
    check_pair(view_1, view_2, names="view_1, view_2")
    return torch.cat([view_1, view_2])


def anchor_scores(
    view_1: Tensor, view_2: Tensor, scale: Tensor | float, **kernel: Unpack[KernelOptions]
) -> AnchorScores:
    """Scores of both views against both views of all samples.

    Args:
        view_1: (B, D).
        view_2: (B, D).
        scale: > 0, multiplies the similarities (1 / temperature).
        **kernel: see `KernelOptions`.

    Raises:
        ValueError: views of different shape, or a single sample and no group (no negatives).
    """
    anchors = stacked(view_1, view_2)
    check_negatives(anchors, kernel)
    return _scores(anchors, scale, kernel)


def _scores(anchors: Tensor, scale: Tensor | float, kernel: KernelOptions) -> AnchorScores:
    num = len(anchors) // 2
    spec = nt_xent_spec(num) & ExcludePositive()
    stats = sweep(anchors, anchors, scale, spec, top1=True, **kernel)
    positive = scale * (anchors[:num] * anchors[num:]).sum(-1)
    return AnchorScores(stats.row_lse, torch.cat([positive, positive]), stats.top1[:num])


def check_negatives(anchors: Tensor, kernel: KernelOptions) -> None:
    """Raise ValueError for a single sample, whose denominator would be empty.

    Raises:
        ValueError: one sample and no group.
    """
    if len(anchors) < 4 and not process_group(kernel)[0]:
        num, dim = len(anchors) // 2, anchors.shape[1]
        raise ValueError(f"one sample has no negatives; the views are {(num, dim)}")


def _output(per_anchor: Tensor, scores: AnchorScores, kernel: KernelOptions) -> LossOutput:
    """Mean of the two anchors of every sample."""
    per_sample = per_anchor.view(2, -1).mean(0)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, scores.hits)


@full_precision
def nt_xent(
    view_1: Tensor, view_2: Tensor, scale: Tensor | float, **kernel: Unpack[KernelOptions]
) -> LossOutput:
    """Normalised-temperature cross entropy over the 2N vectors of both views (SimCLR).

        L = 1/2B * sum_a [log sum_{b != a} exp(scale * <z_a, z_b>) - scale * <z_a, z_partner(a)>]

    Source: Chen et al. 2020, equation 1, arXiv 2002.05709.

    Args:
        view_1: (B, D), L2-normalised.
        view_2: (B, D), L2-normalised; row i is the other view of sample i.
        scale: > 0, multiplies the similarities (1 / temperature).
        **kernel: see `KernelOptions`.

    Returns:
        Mean over the 2B anchors, 0 for a single sample; per sample the mean of its two; hits: view
        1 finds view 2.

    Raises:
        ValueError: views of different shape.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> view = torch.eye(2)
    >>> nt_xent(view, view, scale=math.log(4.0)).loss.exp().round(decimals=4)  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """
    return nt_xent_of_anchors(stacked(view_1, view_2), scale, **kernel)


@full_precision
def nt_xent_of_anchors(
    anchors: Tensor, scale: Tensor | float, **kernel: Unpack[KernelOptions]
) -> LossOutput:
    """`nt_xent` of (2B, D) concatenated views."""
    scale = as_scale(scale)
    if runs_plain(anchors, anchors, "self", kernel):
        return equations.nt_xent(anchors, scale)
    scores = _scores(anchors, scale, kernel)
    return _output(F.softplus(scores.negatives - scores.positive, threshold=50.0), scores, kernel)


@full_precision
def dcl(
    view_1: Tensor,
    view_2: Tensor,
    scale: Tensor | float,
    *,
    weight: Tensor | None = None,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Decoupled contrastive loss: NT-Xent without the positive in the denominator.

        L = sum over both views of mean_i [log U_i - w_i * s_i],   U_i over 2N - 2 negatives

    Source: Yeh et al. 2022, equations 6 and 7, arXiv 2110.06848.

    Args:
        view_1: (B, D), L2-normalised.
        view_2: (B, D), L2-normalised.
        scale: > 0, multiplies the similarities (1 / temperature).
        weight: (B,) weight of the positive term, see `von_mises_fisher_weight`; None is 1.
        **kernel: see `KernelOptions`.

    Returns:
        Sum of the two directions (each a mean over samples); may be negative. Hits: view 1 finds
        view 2.

    Raises:
        ValueError: views of different shape, or a single sample.

    Distributed: gathers negatives if a `group` is given, else local.

    Deviation: the paper sums over the batch; released implementations average.

    >>> view = torch.eye(2)
    >>> dcl(view, view, scale=4.0).loss.round(decimals=4)  # 2 * (log 2 - 4)
    tensor(-6.6137)
    """
    return dcl_of_anchors(stacked(view_1, view_2), scale, weight=weight, **kernel)


@full_precision
def dcl_of_anchors(
    anchors: Tensor,
    scale: Tensor | float,
    *,
    weight: Tensor | None = None,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """`dcl` of (2B, D) concatenated views."""
    check_negatives(anchors, kernel)
    scale = as_scale(scale)
    if runs_plain(anchors, anchors, "self", kernel):
        return equations.dcl(anchors, scale, weight)
    scores = _scores(anchors, scale, kernel)
    both = 1.0 if weight is None else torch.cat([weight, weight])
    return _output(2 * (scores.negatives - both * scores.positive), scores, kernel)


def von_mises_fisher_weight(
    positive: Tensor, sigma: float = 0.5, **kernel: Unpack[KernelOptions]
) -> Tensor:
    """Weight of the positive term in DCLW; its mean over the global batch is exactly 1.

        w_i = 2 - exp(c_i / sigma) / mean_m exp(c_m / sigma)

    Source: Yeh et al. 2022, equation 7, arXiv 2110.06848.

    Args:
        positive: (B,) cosines of the pairs.
        sigma: > 0, temperature; large values give weights near 1.
        **kernel: see `KernelOptions`.

    Returns:
        (B,); some are negative if one pair dominates. Detach them to stop the gradient.

    Distributed: reduces statistics if a `group` is given, else local.

    >>> von_mises_fisher_weight(torch.tensor([0.3, 0.3]))
    tensor([1., 1.])
    """
    sharded, group = process_group(kernel)
    everyone = positive
    if sharded:
        everyone = all_gather_with_grad(positive, group, row_counts(positive, kernel))
    log_mean = (everyone / sigma).logsumexp(0) - math.log(everyone.shape[0])
    return 2 - (positive / sigma - log_mean).exp()


@full_precision
def debiased(
    view_1: Tensor,
    view_2: Tensor,
    scale: Tensor | float,
    *,
    tau_plus: float = 0.1,
    beta: float = 0.0,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """NT-Xent corrected for false negatives, optionally weighted by hardness.

        n = 2N - 2
        neg_a = sum_b exp(s_ab)                                          for beta = 0
        neg_a = n * sum_b exp((1 + beta) s_ab) / sum_b exp(beta s_ab)    else
        g_a = max((neg_a - n * tau_plus * exp(p_a)) / (1 - tau_plus), n * exp(-scale))
        L = mean_a [log(exp(p_a) + g_a) - p_a]

    Source: Chuang et al. 2020, equation 8, arXiv 2007.00224 (beta = 0); Robinson et al. 2021,
    equation 4, arXiv 2010.04592 (beta > 0).

    Args:
        view_1: (B, D), L2-normalised.
        view_2: (B, D), L2-normalised.
        scale: > 0, multiplies the similarities (1 / temperature).
        tau_plus: in [0, 1), probability that a negative is a positive.
        beta: >= 0, concentration on hard negatives; gradient flows through their weights.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over the 2B anchors; hits: view 1 finds view 2.

    Raises:
        ValueError: an option out of range, views of different shape, or a single sample.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> view = torch.eye(2)
    >>> out = debiased(view, view, scale=2.0, tau_plus=0.0)
    >>> bool((out.loss - nt_xent(view, view, scale=2.0).loss).abs() < 1e-6)
    True
    """
    if not 0 <= tau_plus < 1 or beta < 0:
        raise ValueError(f"need 0 <= tau_plus < 1 and beta >= 0, got {tau_plus} and {beta}")
    anchors, scale = stacked(view_1, view_2), as_scale(scale)
    check_negatives(anchors, kernel)
    scores = _scores(anchors, scale, kernel)
    log_n = (2 * count_rows(view_1.shape[0], scores.positive, kernel) - 2).log()
    negatives = scores.negatives
    if beta:
        harder = _scores(anchors, (1 + beta) * scale, kernel).negatives
        normaliser = _scores(anchors, beta * scale, kernel).negatives
        negatives = log_n + harder - normaliser
    if tau_plus:
        negatives = _without_hidden_positives(negatives, scores.positive, log_n, scale, tau_plus)
    return _output(F.softplus(negatives - scores.positive, threshold=50.0), scores, kernel)


def _without_hidden_positives(
    negatives: Tensor, positive: Tensor, log_n: Tensor, scale: Tensor | float, tau_plus: float
) -> Tensor:
    """Log of g_a of `debiased`, all in logarithms: log(e^x - e^y) = x + log(1 - e^(y - x))."""
    share = log_n + math.log(tau_plus) + positive - negatives
    floor = log_n - scale
    some_left = share < 0
    inside = torch.where(some_left, share, -1.0)  # any finite number where no negatives remain
    corrected = negatives + (-torch.expm1(inside)).log() - math.log1p(-tau_plus)
    return torch.where(some_left, torch.maximum(corrected, floor), floor)


@full_precision
def target_anchored(
    target: Tensor, query: Tensor, scale: Tensor | float, **kernel: Unpack[KernelOptions]
) -> LossOutput:
    """NT-Xent against fixed targets: gradient flows through the queries only.

        L = NT-Xent(stop_gradient(target), query)

    Source: Byun et al. 2025, "An Efficient Post-hoc Framework for Reducing Task Discrepancy of
    Text Encoders for Composed Image Retrieval", arXiv 2406.09188.

    Args:
        target: (B, D), L2-normalised, frozen; a refined batch concatenates targets and references.
        query: (B, D), L2-normalised, row i belongs to target i.
        scale: > 0, multiplies the similarities (1 / temperature).
        **kernel: see `KernelOptions`.

    Returns:
        Mean over the 2B anchors; hits: the target finds its query.

    Raises:
        ValueError: different shapes.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> pair = torch.eye(2)
    >>> target_anchored(pair, pair, scale=math.log(4.0)).loss.exp().round(decimals=4)
    tensor(1.5000)
    """
    return nt_xent(target.detach(), query, scale, **kernel)


def npc_multiplier(log_negatives: Tensor, positive: Tensor) -> Tensor:
    """Negative-positive coupling, the factor in InfoNCE's gradient that DCL removes.

        q_B = 1 - exp(p) / (exp(p) + U) = sigmoid(log U - p)

    Source: Yeh et al. 2022, equation 3, arXiv 2110.06848.

    Args:
        log_negatives: (B,) log U, log-sum of the scaled similarities to the negatives.
        positive: (B,) scaled similarity p to the positive.

    Returns:
        (B,) in (0, 1).

    Distributed: local.

    >>> npc_multiplier(torch.tensor([2.0]), torch.tensor([2.0]))
    tensor([0.5000])
    """
    return torch.sigmoid(log_negatives - positive)  # Eq. 3
