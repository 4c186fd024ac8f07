"""Softmax over class vectors.

# N rows, C classes, D dim
"""

from typing import Unpack

import torch.nn.functional as F
from torch import Tensor

from common.kernels.row_loss import info_nce_rows
from common.kernels.specs.weights import ExcludePositive, Index, Spec
from common.losses.functional.kernel import KernelOptions, local, mean_loss, sweep
from common.losses.output import LossOutput, check_pair, full_precision


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

    Without margin and mask this is the cross entropy of a linear layer without bias, and outside of
    the dense back end its gradient is formed in the forward, tile by tile: the N x C logits are never
    stored, and for prototypes without gradient nothing is computed.

    Source: Wang et al. 2018, "CosFace", equation 4, arXiv 1801.09414; tiles of the cross entropy:
    Wijmans et al. 2024, arXiv 2411.09009.

    Args:
        query: (N, D), L2-normalised if cosines are meant.
        prototypes: (C, D) class vectors, all or a sample of them; equal on all ranks.
        labels: (N,) int64, row of `prototypes`.
        scale: > 0, multiplies the similarities.
        margin: >= 0, subtracted from the similarity of the true class.
        mask: classes that count per row (other true labels do not), or a sampling correction.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows; hits: the true class is nearest (without the margin).

    Raises:
        ValueError: shapes that do not fit.

    Distributed: local, and exact on several ranks: every rank holds all prototypes.

    >>> import torch
    >>> w = torch.eye(2)
    >>> prototype_softmax(w, w, torch.tensor([0, 1]), torch.tensor(3.0).log()).loss.exp()
    tensor(1.3333)
    """
    check_pair(query, prototypes, same_rows=False, names="query, prototypes")
    if labels.shape != query.shape[:1]:
        raise ValueError(f"one label per row: {tuple(labels.shape)} for {tuple(query.shape)}")
    spec = Index(labels) & ExcludePositive()
    if not margin and mask is None and kernel.get("group") is None:
        rows = info_nce_rows(query, prototypes, scale, spec, join=True, top1=True, **kernel)
        if rows is not None and rows.top1 is not None:
            return LossOutput(rows.total / len(query), rows.per_row, rows.top1)
    positive = scale * ((query * prototypes[labels]).sum(-1) - margin)
    spec = spec if mask is None else spec & mask
    stats = sweep(query, prototypes, scale, spec, top1=True, **local(kernel))
    per_sample = F.softplus(stats.row_lse - positive)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, stats.top1)
