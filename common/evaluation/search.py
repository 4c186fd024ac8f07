"""Exact nearest-neighbour search in blocks; the score matrix is never stored whole.

Legend: Q queries, G gallery items, D dimension, K results.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.evaluation.matrices import (
    Indices,
    Metric,
    as_pair,
    blocks,
    exact_math,
    fill_pairs,
    index_pairs,
)

Backend = Literal["auto", "torch", "faiss"]
GALLERY_PER_QUERY = 40  # measured: with more items per query torch is as fast or faster
FEW_EXCLUDED = 16  # items per query that are found in vain


class SearchResult(NamedTuple):
    """The K best items per query, best first; equal scores by ascending index."""

    scores: Tensor  # (Q, K) float
    indices: Tensor  # (Q, K) int64


def stable_topk(scores: Tensor, k: int) -> SearchResult:
    """Top-k of every row where ties go to the lower column, unlike ``torch.topk``.

    Args:
        scores: (Q, G), no NaN.
        k: 1 <= k <= G.

    Returns:
        Scores and column indices, (Q, k) each, sorted by descending score, then ascending index.

    >>> stable_topk(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), 2).indices.tolist()
    [[1, 2]]
    """
    values, indices = scores.topk(k, dim=1)
    kth = values[:, -1:]
    cut = ((scores >= kth).sum(dim=1) > k).nonzero()[:, 0]  # ties on both sides of the cut
    if len(cut):
        above, tied = scores[cut] > kth[cut], scores[cut] == kth[cut]
        room = k - above.sum(dim=1, keepdim=True)
        keep = above | (tied & (tied.cumsum(dim=1) <= room))
        indices[cut] = keep.nonzero()[:, 1].view(-1, k)
    indices = indices.sort(dim=1).values
    values, order = scores.gather(1, indices).sort(dim=1, descending=True, stable=True)
    return SearchResult(values, indices.gather(1, order))


def search(
    query: Tensor,
    gallery: Tensor,
    k: int,
    *,
    metric: Metric = "cosine",
    exclude: Indices | None = None,
    chunk_size: int = 4096,
    backend: Backend = "auto",
    device: torch.device | str | None = None,
) -> SearchResult:
    """Find the ``k`` gallery items most similar to every query, exactly.

    Args:
        query: (Q, D) embeddings, any floating dtype.
        gallery: (G, D) embeddings on the same device.
        k: results per query.
        metric: ``"cosine"`` or ``"dot"``.
        exclude: gallery indices that must not be returned, one per query or a list per query
            (the query itself, a reference image).
        chunk_size: queries and gallery items per block; memory is ``chunk_size ** 2`` scores.
        backend: ``"faiss"`` uses a flat index (CPU, float32, at most 16 exclusions per query);
            ``"auto"`` takes it where it is faster, for many queries. Results agree up to rounding.
        device: where both are moved and products computed; None: where they are.

    Returns:
        Scores and indices, sorted by descending score, then ascending index, on that device.

    Raises:
        ValueError: shapes do not fit, ``k`` is larger than what is left of the gallery, or faiss
            was asked for where it does not apply.

    Distributed: local.

    >>> gallery = torch.eye(3)
    >>> search(gallery[:1], gallery, 2).indices.tolist()
    [[0, 1]]
    """
    if device is not None:
        query, gallery = query.to(device), gallery.to(device)
    query, gallery = as_pair(query, gallery, metric)
    excluded = index_pairs(
        [[]] * len(query) if exclude is None else exclude, len(query), len(gallery), "exclude"
    )
    most = int(torch.bincount(excluded[:, 0]).max()) if len(excluded) else 0
    if not 1 <= k <= len(gallery) - most:
        raise ValueError(
            f"k must lie in [1, {len(gallery) - most}] ({len(gallery)} gallery items, "
            f"up to {most} excluded), got {k}"
        )
    if _use_faiss(backend, query, gallery, most):
        return _search_faiss(query, gallery, k, excluded, most, chunk_size)
    return _search_torch(query, gallery, k, excluded, chunk_size)


def _search_torch(
    query: Tensor, gallery: Tensor, k: int, excluded: Tensor, chunk_size: int
) -> SearchResult:
    results = []
    with exact_math(query.device):
        for rows in blocks(len(query), chunk_size):
            values = query.new_empty((rows.stop - rows.start, 0))
            indices = values.long()
            for columns in blocks(len(gallery), chunk_size):
                scores = query[rows] @ gallery[columns].T
                fill_pairs(scores, excluded, rows, columns)
                best = stable_topk(scores, min(k, scores.shape[1]))
                values = torch.cat([values, best.scores], dim=1)
                indices = torch.cat([indices, best.indices + columns.start], dim=1)
                # Earlier blocks hold lower indices, so a stable sort keeps the order of ties.
                values, order = values.sort(dim=1, descending=True, stable=True)
                values, indices = values[:, :k], indices.gather(1, order[:, :k])
            results.append(SearchResult(values, indices))
    return SearchResult(
        torch.cat([r.scores for r in results]), torch.cat([r.indices for r in results])
    )


def _use_faiss(backend: Backend, query: Tensor, gallery: Tensor, most: int) -> bool:
    if backend not in ("auto", "torch", "faiss"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'faiss', got {backend!r}")
    on_cpu = gallery.device.type == "cpu" and gallery.dtype == torch.float32
    applies = on_cpu and most <= FEW_EXCLUDED
    if backend == "auto":
        return applies and len(gallery) <= GALLERY_PER_QUERY * len(query)
    if backend == "faiss" and not applies:
        raise ValueError(
            "the faiss backend needs float32 on the CPU and at most"
            f" {FEW_EXCLUDED} excluded items per query, got {gallery.dtype} on"
            f" {gallery.device.type} and up to {most}"
        )
    return backend == "faiss"


def _search_faiss(
    query: Tensor, gallery: Tensor, k: int, excluded: Tensor, most: int, chunk_size: int
) -> SearchResult:
    import faiss

    queries, items = (np.ascontiguousarray(x.detach().numpy()) for x in (query, gallery))
    # one more than asked for, to see ties across the cut
    depth = min(k + most + 1, len(gallery))
    scores, indices = faiss.knn(queries, items, depth, metric=faiss.METRIC_INNER_PRODUCT)
    if most:
        places = indices + np.arange(len(query))[:, None] * len(gallery)
        rows, columns = excluded.numpy().T
        scores = np.where(np.isin(places, rows * len(gallery) + columns), -np.inf, scores)
    order = np.lexsort((indices, -scores), axis=1)[:, : k + 1]
    values = torch.from_numpy(np.take_along_axis(scores, order, axis=1))
    columns = torch.from_numpy(np.take_along_axis(indices, order, axis=1)).long()
    result = SearchResult(values[:, :k].clone(), columns[:, :k].clone())
    if values.shape[1] > k:  # a tie across the cut: only a full scan finds the lowest indices
        cut = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
        if len(cut):
            pairs = excluded[torch.isin(excluded[:, 0], cut)]
            pairs = torch.stack([torch.searchsorted(cut, pairs[:, 0]), pairs[:, 1]], dim=1)
            again = _search_torch(query[cut], gallery, k, pairs, chunk_size)
            result.scores[cut], result.indices[cut] = again.scores, again.indices
    return result
