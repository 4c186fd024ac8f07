"""Hard negatives among the candidates of a search."""

import torch
from torch import Tensor

from common.evaluation.matrices import Indices, Metric, as_pair, index_pairs
from common.evaluation.retrieval.vector_shards import VectorShards
from common.evaluation.search import SearchResult


def select_negatives(
    candidates: SearchResult,
    num_negatives: int,
    positive_score: Tensor | None = None,
    *,
    ratio: float = 0.95,
) -> Tensor:
    """The best candidates of a search that may be negatives.

    A candidate whose score is above ``ratio`` times the positive's (above the positive itself, if
    that is not greater than 0) is taken for a false negative and left out.

    Source: Moreira et al. 2024, "NV-Retriever", section 3 (TopK-PercPos), arXiv 2407.15831.

    Args:
        candidates: texts without the positives, best first, (Q, C) each; index -1 or score -inf
            marks no candidate.
        num_negatives: K <= C.
        positive_score: (Q,) score of each query's (worst) positive; None: no filter.
        ratio: in (0, 1].

    Returns:
        (Q, K) int64 indices on the CPU, filled up with -1.
    """
    keep = candidates.scores.gt(-torch.inf) & candidates.indices.ge(0)
    if positive_score is not None:
        limit = torch.where(positive_score > 0, positive_score * ratio, positive_score)
        keep &= candidates.scores <= limit[:, None]
    # Kept candidates first, each group in its order.
    order = (~keep).int().argsort(dim=1, stable=True)[:, :num_negatives]
    negatives = candidates.indices.gather(1, order)
    return negatives.masked_fill(~keep.gather(1, order), -1).cpu()


def lowest_positive(
    query: Tensor, gallery: Tensor | VectorShards, positives: Indices, metric: Metric
) -> Tensor:
    """Score of each query's worst positive, (Q,), where the queries are.

    Args:
        query: (Q, D).
        gallery: (G, D), or the same on disk.
        positives: gallery indices of every query, at least one each.
        metric: "cosine" or "dot".

    Raises:
        ValueError: a query without a positive.
    """
    pairs = index_pairs(positives, len(query), len(gallery), "positives")
    if len(set(pairs[:, 0].tolist())) != len(query):
        raise ValueError("max_positive_ratio needs a positive for every query")
    right: Tensor
    if isinstance(gallery, VectorShards):
        right = torch.from_numpy(gallery.take(pairs[:, 1].numpy())).to(query.device)
    else:
        right = gallery[pairs[:, 1]]
    asked, right = as_pair(query[pairs[:, 0]], right, metric)
    scores = (asked * right).sum(dim=1)
    worst = torch.full((len(query),), float("inf"), dtype=scores.dtype, device=scores.device)
    return worst.scatter_reduce(0, pairs[:, 0].to(scores.device), scores, "amin")
