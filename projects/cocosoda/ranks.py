"""Ranks of functions in a code base, and the metrics of code search.

# Q queries, C functions of the code base
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.evaluation.matrices import blocks

KS = (1, 5, 10)
_BLOCK = 256  # queries that are scored together
Scores = Callable[[slice], Tensor]  # queries -> their similarities (B, C)


def gold_ranks(scores: Scores, gold: Sequence[Sequence[int]]) -> Tensor:
    """Rank of the best function that is a query's own, from 1; equal scores by ascending place.

    Args:
        scores: similarities of some queries with all functions.
        gold: places of the functions of each of Q queries, ascending; several where a function
            occurs more than once, none where the code base lacks it.

    Returns:
        (Q,) int64, 0 where there is none.
    """
    ranks = torch.zeros(len(gold), dtype=torch.long)
    for rows in blocks(len(gold), _BLOCK):
        table = scores(rows)
        for i, (row, golds) in enumerate(zip(table, gold[rows], strict=True), rows.start):
            if golds:
                values = row[list(golds)]
                best = values.max()
                first = golds[int((values == best).nonzero()[0])]
                ranks[i] = 1 + int((row > best).sum()) + int((row[:first] == best).sum())
    return ranks


def reciprocal(ranks: Tensor, max_rank: int = 1000) -> Tensor:
    """1 / rank, (Q,) float64; 0 where there is no rank, or one beyond `max_rank`.

    >>> reciprocal(torch.tensor([1, 4, 0, 2000])).tolist()
    [1.0, 0.25, 0.0, 0.0]
    """
    kept = (ranks > 0) & (ranks <= max_rank)
    return torch.where(kept, 1 / ranks.double().clamp(min=1), 0)


def search_metrics(reciprocal_ranks: Tensor | Sequence[float]) -> dict[str, float]:
    """MRR, and Recall@k as the share of queries whose reciprocal rank is at least 1/k.

    Source: Shi et al. 2023, released code, arXiv 2204.03293; Husain et al. 2019, section 4,
    arXiv 1909.09436 (MRR).

    Args:
        reciprocal_ranks: (Q,), in [0, 1].

    Raises:
        ValueError: no queries.

    >>> search_metrics([1.0, 0.2])
    {'mrr': 0.6, 'recall_at_1': 0.5, 'recall_at_5': 1.0, 'recall_at_10': 1.0}
    """
    values = torch.as_tensor(reciprocal_ranks, dtype=torch.float64)
    if not len(values):
        raise ValueError("there are no queries")
    metrics = {"mrr": float(values.mean())}
    return metrics | {f"recall_at_{k}": float(values.ge(1 / k).double().mean()) for k in KS}
