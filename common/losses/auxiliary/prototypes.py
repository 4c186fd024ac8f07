"""Softmax over class vectors: all on every rank, or a sample divided among ranks.

# N rows, M rows of all ranks, C classes, S classes of this rank, D dim
"""

from typing import Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ...distributed.collectives import log_sum_exp_over_ranks
from ...distributed.differentiable import all_gather_with_grad, all_reduce_sum
from ...kernels.row_loss import info_nce_rows
from ...kernels.specs.weights import Bias, Exclude, ExcludePositive, Index, Spec
from ..functional.kernel import (
    KernelOptions,
    first_row,
    local,
    mean_loss,
    process_group,
    row_counts,
    rows_of_all_ranks,
    sweep,
)
from ..output import LossOutput, check_pair, full_precision

Margin = Literal["cosine", "angle"]
NEAREST = 1e-7  # to cosines of 1 and -1, where the angle has no derivative


@full_precision
def prototype_softmax(
    query: Tensor,
    prototypes: Tensor,
    labels: Tensor,
    scale: Tensor | float,
    *,
    margin: float = 0.0,
    mask: Spec | None = None,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Cross entropy over class vectors, with an additive cosine margin on the true class.

        p_i = scale * (<q_i, w_y> - margin)
        l_i = log [exp(p_i) + sum_{c != y} exp(scale * <q_i, w_c>)] - p_i

    Without margin and mask this is the cross entropy of a linear layer without bias. Except in the
    dense back end, the forward pass computes the gradient tile by tile and never stores the N x C
    logits. Frozen prototypes add no work to the backward pass.

    Source: Wang et al. 2018, "CosFace", equation 4, arXiv 1801.09414; tiles of the cross entropy:
    Wijmans et al. 2024, arXiv 2411.09009.

    Args:
        query: (N, D), L2-normalised if cosines are meant.
        prototypes: (C, D) class vectors, all or a sample of them; equal on all ranks.
        labels: (N,) int64, row of `prototypes`, in [0, C); every row has one.
        scale: > 0, multiplies the similarities.
        margin: >= 0, subtracted from the similarity of the true class.
        mask: classes that count per row (other true labels do not), or a sampling correction.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows; hits: the true class is nearest (without the margin).

    Raises:
        ValueError: shapes that do not fit, or a label that is no row of `prototypes`; on a GPU
            the latter is a failed device assertion, since the host does not wait.

    Distributed: local, and exact on several ranks: every rank holds all prototypes.

    >>> import torch
    >>> w = torch.eye(2)
    >>> prototype_softmax(w, w, torch.tensor([0, 1]), torch.tensor(3.0).log()).loss.exp()
    tensor(1.3333)
    """
    check_pair(query, prototypes, same_rows=False, names="query, prototypes")
    if labels.shape != query.shape[:1]:
        raise ValueError(f"one label per row: {tuple(labels.shape)} for {tuple(query.shape)}")
    _check_labels(labels, len(prototypes))
    spec = Index(labels) & ExcludePositive()
    if not margin and mask is None and kernel.get("group") is None:
        rows = info_nce_rows(query, prototypes, scale, spec, join=True, top1=True, **kernel)
        if rows is not None and rows.top1 is not None:
            return LossOutput(rows.total / len(query), rows.per_row, rows.top1)
    positive = scale * ((query * prototypes[labels]).sum(-1) - margin)
    spec = spec if mask is None else spec & mask
    stats = sweep(query, prototypes, scale, spec, top1=True, **local(kernel))
    per_sample = F.softplus(stats.row_lse - positive, threshold=50.0)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, stats.top1)


def _check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError for labels outside of [0, C), which back ends would read differently."""
    message = f"labels must be rows of the {num_classes} prototypes, from 0"
    fits = ((labels >= 0) & (labels < num_classes)).all()
    if labels.is_cuda:
        torch._assert_async(fits, message)
    elif not bool(fits):
        raise ValueError(f"{message}; found {int(labels.min())} to {int(labels.max())}")


@full_precision
def sampled_prototype_softmax(
    query: Tensor,
    prototypes: Tensor,
    class_ids: Tensor,
    labels: Tensor,
    scale: Tensor | float,
    *,
    margin: float = 0.0,
    margin_on: Margin = "cosine",
    others: Tensor | None = None,
    log_counts: Tensor | None = None,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """`prototype_softmax` over sampled classes, each stored on one rank.

        p_i = scale * (<q_i, w_y> - margin)   or   scale * cos(theta_y + margin)
        l_i = log [exp(p_i) + sum_{c in S, c not in E_i} exp(scale * <q_i, w_c>)] - p_i

    S is the union of `class_ids` over ranks, E_i the true classes of row i. `log_counts`
    lowers every logit by the logarithm of how often its class is drawn (log-Q correction).

    Source: Wang et al. 2018, "CosFace", equation 4, arXiv 1801.09414; Deng et al. 2019, "ArcFace",
    equation 3, arXiv 1801.07698; sampling: Wu et al. 2024, section 3.2, arXiv 2306.07952.

    Args:
        query: (N, D) rows of this rank, L2-normalised if cosines are meant.
        prototypes: (S, D) vectors of this rank's sampled classes, normalised like `query`.
        class_ids: (S,) int64 in ascending order; no class on two ranks.
        labels: (N,) int64 ids of the true class, each of them sampled on some rank.
        scale: > 0, multiplies the similarities.
        margin: >= 0, in units of the cosine, or radians for "angle".
        margin_on: "cosine" (CosFace) or "angle" (ArcFace).
        others: (N, E) int64 ids of further true classes, which are not negatives; -1 for none.
        log_counts: (S,) log of the expected number of draws.
        **kernel: see `KernelOptions`; its group divides the classes.

    Returns:
        Mean over the rows of all ranks, equal on every rank; values per row of this rank; no hits.

    Raises:
        ValueError: shapes that do not fit, an unknown `margin_on`, or a label that no rank has
            sampled.

    Distributed: global on every rank. Averaging over ranks gives exact gradients of replicated
        weights; gradients of `prototypes`, which are not averaged, are W times too large.

    >>> w, y = torch.eye(3), torch.tensor([1])
    >>> out = sampled_prototype_softmax(w[:1], w[1:], torch.tensor([1, 2]), y, 1.0)
    >>> out.loss.exp().round()  # two classes of equal similarity
    tensor(2.)
    """
    if margin_on not in get_args(Margin):
        raise ValueError(f"margin_on must be one of {get_args(Margin)}, got {margin_on!r}")
    check_pair(query, query if not len(prototypes) else prototypes, same_rows=False)
    if labels.shape != query.shape[:1] or class_ids.shape != prototypes.shape[:1]:
        raise ValueError(
            f"one label per row, one id per class: {tuple(labels.shape)}, {tuple(class_ids.shape)} "
            f"for {tuple(query.shape)}, {tuple(prototypes.shape)}"
        )
    sharded, group = process_group(kernel)
    q_MD = all_gather_with_grad(query, group, row_counts(query, kernel)) if sharded else query
    y_M = rows_of_all_ranks(labels, kernel)
    place = torch.searchsorted(class_ids, y_M)
    ids = torch.cat([class_ids, class_ids.new_full((1,), -1)])
    here = ids[place] == y_M
    w_MD = torch.cat([prototypes, prototypes.new_zeros(1, query.shape[1])])[place]
    cosine, held = torch.where(here, (q_MD * w_MD).sum(-1), 0), here.long()
    if sharded:
        cosine, held = all_reduce_sum(cosine, group), all_reduce_sum(held, group)
    if not bool((held == 1).all()):
        raise ValueError("every label must be among the sampled classes of exactly one rank")
    if margin_on == "angle":
        angle = cosine.clamp(NEAREST - 1, 1 - NEAREST).acos()
        positive = scale * torch.where(
            angle + margin <= torch.pi, (angle + margin).cos(), -2 - (angle + margin).cos()
        )  # keeps falling beyond pi
    else:
        positive = scale * (cosine - margin)
    spec: Spec = Index(torch.where(here, place, -1)) & ExcludePositive()
    if others is not None:
        for column in rows_of_all_ranks(others, kernel).unbind(1):
            spec = spec & Exclude(column, class_ids, keep_positive=False)
    if log_counts is not None:
        spec = spec & Bias(column=-log_counts)
        drawn = torch.where(here, torch.cat([log_counts, log_counts.new_zeros(1)])[place], 0)
        positive = positive - (all_reduce_sum(drawn, group) if sharded else drawn)
    if len(prototypes):
        negative = sweep(q_MD, prototypes, scale, spec, **local(kernel)).row_lse
    else:
        negative = q_MD.sum(-1) * 0 - torch.inf
    if sharded:
        shift = log_sum_exp_over_ranks(negative, group)
        shift = torch.where(shift.isneginf(), 0, shift)
        negative = shift + all_reduce_sum((negative - shift).exp(), group).log()
    per_row = F.softplus(negative - positive, threshold=50.0)
    start = first_row(query, kernel)
    return LossOutput(per_row.mean(), per_row[start : start + len(query)], None)
