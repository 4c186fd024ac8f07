"""Hard-negative mining by exact search."""

import torch
from torch import Tensor

from common.evaluation.matrices import Indices, Metric, as_pair, index_pairs
from common.evaluation.retrieval.vector_shards import VectorShards
from common.evaluation.search import SearchResult, search


def mine_hard_negatives(
    query: Tensor,
    gallery: Tensor,
    positives: Indices,
    num_negatives: int,
    *,
    skip: int = 0,
    candidates: int = 100,
    max_positive_ratio: float | None = None,
    metric: Metric = "cosine",
    chunk_size: int = 4096,
) -> Tensor:
    """The most similar gallery items that are not positives, nearest first.

    Source: Moreira et al. 2024, "NV-Retriever", section 3 (``max_positive_ratio`` is its
    TopK-PercPos filter, there 0.95), arXiv 2407.15831.

    Args:
        query: (Q, D) embeddings.
        gallery: (G, D) embeddings.
        positives: gallery indices per query that are never negatives, one or a list each; every
            query needs one if ``max_positive_ratio`` is used.
        num_negatives: negatives per query.
        skip: nearest non-positives to leave out first (likely false negatives).
        candidates: nearest non-positives that are looked at in all.
        max_positive_ratio: drop candidates that score above this share of the query's
            lowest-scoring positive, if that is greater than 0; otherwise above the positive itself.
        metric: ``"cosine"`` or ``"dot"``.
        chunk_size: rows per block of the search.

    Returns:
        (Q, num_negatives) int64 gallery indices on the CPU, filled up with -1.

    Raises:
        ValueError: shapes do not fit, or the candidates cannot hold what is asked for.

    Distributed: local.

    >>> gallery = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> mine_hard_negatives(gallery[:1], gallery, [0], 1).tolist()
    [[1]]
    """
    pairs = index_pairs(positives, len(query), len(gallery), "positives")
    most = int(torch.bincount(pairs[:, 0]).max()) if len(pairs) else 0
    depth = min(candidates, len(gallery) - most)
    if num_negatives < 1 or skip < 0 or skip + num_negatives > depth:
        raise ValueError(
            f"{num_negatives} negatives after skipping {skip} do not fit into {depth} candidates"
        )
    nearest = search(query, gallery, depth, metric=metric, exclude=positives, chunk_size=chunk_size)
    limit = None
    if max_positive_ratio is not None:
        limit = lowest_positive(query, gallery, positives, metric)
    return select_negatives(
        nearest, num_negatives, limit, ratio=max_positive_ratio or 1.0, skip=skip
    )


def select_negatives(
    candidates: SearchResult,
    num_negatives: int,
    positive_score: Tensor | None = None,
    *,
    ratio: float = 0.95,
    skip: int = 0,
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
        skip: nearest candidates to leave out first.

    Returns:
        (Q, K) int64 indices on the CPU, filled up with -1.
    """
    keep = candidates.scores.gt(-torch.inf) & candidates.indices.ge(0)
    keep[:, :skip] = False
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
