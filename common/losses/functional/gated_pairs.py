"""Agreement of class pairs in gated subspaces on explicit logits (Hydra, SimLAP).

`HydraLoss` never stores the N x M logits because its similarity is bilinear in query and key. This
form stores them, and so takes any similarity.

# N queries, M keys, D dim
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...distributed.differentiable import all_gather_with_grad, all_reduce_sum, rank_mean
from ...distributed.process import default_group
from .kernel import (
    KernelOptions,
    first_row,
    row_counts,
    rows_of_all_ranks,
)


class PairMasks(NamedTuple):
    """Positives and negatives of every query, both (N, M) bool."""

    positives: Tensor
    negatives: Tensor


def pair_masks(
    labels: Tensor, partner_labels: Tensor, key_labels: Tensor, self_offset: int | None = None
) -> PairMasks:
    """Positives are of the partner class, negatives of neither class of the pair.

    Args:
        labels: (N,) int64.
        partner_labels: (N,) int64.
        key_labels: (M,) int64.
        self_offset: key ``self_offset + i`` is query i and no positive of itself; None keeps it.
    """
    same_class = labels[:, None] == key_labels
    positives = partner_labels[:, None] == key_labels
    negatives = ~(same_class | positives)
    if self_offset is not None:
        row = torch.arange(len(labels), device=labels.device)
        positives[row, row + self_offset] = False
    return PairMasks(positives, negatives)


def gated_logits(
    query: Tensor,
    key: Tensor,
    gate: Tensor,
    scale: Tensor | float,
    *,
    renormalise: bool = False,
    alpha: Tensor | float | None = None,
) -> Tensor:
    """Similarities in the query's subspace, both sides gated with the query's gate.

        l_ij = scale * sum_k q_ik g_ik^2 k_jk                                   (released code)
        l_ij = scale * <g_i q_i, g_i k_j> / (||g_i q_i|| ||g_i k_j||)           (renormalise: paper)
        l_ij <- l_ij - scale * alpha * <q_i, k_j>                        (alpha: erow/FastSSL)

    Source: Wu et al. 2024, arXiv 2410.18200, and its released code.

    Args:
        query: (N, D), L2-normalised.
        key: (M, D), L2-normalised.
        gate: (N, D) in [0, 1].
        scale: > 0, 1 / temperature.
        renormalise: cosine of the gated vectors; needs no (N, M, D) tensor, since
            ||g_i k_j||^2 = sum_k g_ik^2 k_jk^2 is a matrix product.
        alpha: weight of the open similarity that is subtracted; None for none.

    Returns:
        (N, M).

    >>> q = torch.eye(2)
    >>> gated_logits(q, q, torch.full((2, 2), 0.5), 4.0)[0]
    tensor([1., 0.])
    >>> gated_logits(q, q, torch.full((2, 2), 0.5), 4.0, renormalise=True)[0]
    tensor([4., 0.])
    """
    squared = gate.square()
    similarity = (query * squared) @ key.T
    if renormalise:
        query_norm = (query.square() * squared).sum(dim=1, keepdim=True)
        key_norm = squared @ key.square().T
        similarity = similarity * (query_norm * key_norm).clamp(min=1e-12).rsqrt()
    if alpha is not None:
        similarity = similarity - alpha * (query @ key.T)
    return scale * similarity


def per_positive_loss(logits: Tensor, masks: PairMasks) -> tuple[Tensor, Tensor]:
    """Contrast every positive separately with the negatives of its row.

        l_i = sum_{j in P_i} log [1 + sum_{m in Neg_i} exp(l_im) / exp(l_ij)]

    Args:
        logits: (N, M).
        masks: positives and negatives.

    Returns:
        l_i (N,), 0 for rows without positives or negatives, and the number of positives (N,).
    """
    some = masks.negatives.any(dim=1, keepdim=True)
    # rows without negatives get zeros, whose gradient is finite, and are dropped below
    hidden = logits.masked_fill(~masks.negatives, -torch.inf)
    negatives = torch.where(some, hidden, torch.zeros_like(logits)).logsumexp(dim=1, keepdim=True)
    terms = F.softplus(negatives - logits, threshold=50.0)
    counted = masks.positives & some
    return torch.where(counted, terms, 0).sum(dim=1), masks.positives.sum(dim=1)


def dense_pair_loss(
    query: Tensor,
    key: Tensor,
    gate: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    scale: Tensor | float,
    *,
    exclude_self: bool = False,
    renormalise: bool = False,
    alpha: Tensor | float | None = None,
    row_mean: bool = False,
) -> Tensor:
    """Mean of `per_positive_loss` over all positive pairs of all ranks; 0 if there is none.

    Source: Wu et al. 2024, arXiv 2410.18200, and its released code.

    Args:
        query: (N, D) raw.
        key: (N, D) raw; the queries, or another view of the same samples.
        gate: (N, D) of the pair (label, partner label).
        labels: (N,) int64.
        partner_labels: (N,) int64.
        scale: > 0, 1 / temperature.
        exclude_self: key i is query i and no positive of itself.
        renormalise: see `gated_logits`, as is `alpha`.
        alpha: see `gated_logits`.
        row_mean: average each row over its positives, then over all rows, with 0 for rows without
            positives (erow/FastSSL); False averages over pairs.

    Returns:
        Scalar, this rank's share of the loss of the global batch.

    Distributed: gathers negatives: keys with gradient, and labels.

    >>> z, y, gate = torch.eye(2), torch.tensor([0, 1]), torch.ones(2, 2)
    >>> dense_pair_loss(z, z, gate, y, y, torch.tensor(3.0).log()).exp()
    tensor(1.3333)
    """
    with torch.autocast(query.device.type, enabled=False):
        kernel: KernelOptions = {"group": default_group()}
        keys = F.normalize(key.float() if key.dtype.itemsize < 4 else key)
        keys = all_gather_with_grad(keys, sizes=row_counts(keys, kernel))
        queries = F.normalize(query.float() if query.dtype.itemsize < 4 else query)
        offset = first_row(queries, kernel) if exclude_self else None
        masks = pair_masks(labels, partner_labels, rows_of_all_ranks(labels, kernel), offset)
        gate = gate.to(queries.dtype)
        logits = gated_logits(queries, keys, gate, scale, renormalise=renormalise, alpha=alpha)
        per_row, counts = per_positive_loss(logits, masks)
        if row_mean:
            num_rows = sum(row_counts(queries, kernel))
            return rank_mean(per_row / counts.clamp(min=1), num_rows=num_rows)
        total = all_reduce_sum(counts.sum().to(per_row.dtype)).clamp(min=1)
        return rank_mean(per_row, num_rows=total)
