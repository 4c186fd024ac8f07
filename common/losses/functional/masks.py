"""Masks over the columns of `info_nce`: false negatives by id, by a guide, and hardness weights.

# N rows, M columns: the keys of the batch, then hard negatives (row-major), then a queue
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.specs.weights import Bias, Exclude, Threshold

# Candidates are compared in products of matrices, the positive is one product of its own: equal
# vectors differ by rounding, some 1e-7 of a cosine in float32.
ROUNDING = 1e-6


def id_mask(ids: Tensor, *column_ids: Tensor) -> Exclude:
    """Candidates with the id of the query are no negatives: duplicates, same document, same class.

    Source: masking of false negatives by identity, Karpukhin et al. 2020, section 3.2,
    arXiv 2004.04906 (duplicate passages of a batch).

    Args:
        ids: (N,) int64, of queries and their keys.
        column_ids: ids of further columns, flattened in the order of the candidates.

    Returns:
        A mask for `info_nce` and `clip`; the positive always counts.

    Distributed: local tensors; the kernel gathers the ids of the columns.

    >>> id_mask(torch.tensor([7, 7]), torch.tensor([[8], [9]])).key
    tensor([7, 7, 8, 9])
    """
    return Exclude(ids, torch.cat([ids, *(part.flatten() for part in column_ids)]))


@torch.no_grad()
def masked_share(ids: Tensor) -> Tensor:
    """Share of a batch's pairs of different rows with a common id, which a mask excludes.

    Args:
        ids: (N,) or (N, K) int64, K kinds of identity.

    Returns:
        Scalar in [0, 1].

    >>> masked_share(torch.tensor([[1, 5], [1, 6], [2, 6]]))
    tensor(0.6667)
    """
    rows = len(ids)
    kinds = ids.reshape(rows, -1)
    same = (kinds[:, None] == kinds[None]).any(-1)
    return (same.sum() - rows).float() / max(1, rows * (rows - 1))


def guide_mask(
    guide_query: Tensor,
    guide_columns: Sequence[Tensor],
    *,
    margin: float = 0.0,
    threshold: float | None = None,
    both_directions: bool = False,
) -> Threshold:
    """Candidates that a guide finds nearer to the query than its positive are no negatives.

        pair (i, j) counts iff <u_i, v_j> <= <u_i, v_i> - margin + 1e-6    (or <= threshold)

    The allowance is for rounding: without margin, duplicates of the positive count, all of them.

    Source: Solatorio 2024, "GISTEmbed", equation 2, arXiv 2402.16829.

    Args:
        guide_query: (N, R) L2-normalised guide features; the embeddings themselves for a margin
            mask on own similarities. No gradient.
        guide_columns: features of the keys (N, R), then of hard negatives and queue.
        margin: subtracted from the similarity of the positive; negative values are lenient.
        threshold: absolute bound in place of the positive's similarity.
        both_directions: mask columns against their own positive as well (for `clip`).

    Returns:
        A mask for `info_nce` and `clip`; the positive always counts.

    Raises:
        ValueError: both margin and threshold are given.

    Distributed: local tensors; the kernel gathers the features of the columns.

    >>> guide_mask(torch.eye(2), [torch.eye(2)], margin=0.25).thr
    tensor([0.7500, 0.7500])
    """
    if threshold is not None and margin:
        raise ValueError("give margin (relative to the positive) or threshold (absolute), not both")
    columns = torch.cat(list(guide_columns))
    if threshold is None:
        bound = (guide_query * guide_columns[0]).sum(-1) - margin + ROUNDING
    else:
        bound = torch.full_like(guide_query[:, 0], threshold)
    return Threshold(guide_query, columns, bound, bound if both_directions else None)


def hardness_bias(query: Tensor, columns: Sequence[Tensor], strength: float) -> Bias:
    """Raise the logits of hard negatives by their own similarity, without gradient.

        s_ij <- s_ij + strength * stop_gradient(<query_i, key_j>)

    Source: Lan et al. 2025, "LLaVE", equation 4, arXiv 2503.04812.

    Args:
        query: (N, D), L2-normalised.
        columns: keys (N, D), then hard negatives (N * K, D) and queue.
        strength: > 0, in units of logits.

    Returns:
        A bias for the `mask` of `info_nce`; positives keep their logit.

    Distributed: local tensors; the kernel gathers the columns.

    >>> hardness_bias(torch.eye(2), [torch.eye(2)], 5.0).factor
    5.0
    """
    return Bias(u=query, v=torch.cat(list(columns)), factor=strength)
