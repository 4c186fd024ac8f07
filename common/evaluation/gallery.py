"""Rows of a retrieval gallery: some queries with the best items of each."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def retrieval_gallery(
    scores: Tensor,
    queries: Sequence[Any],
    items: Sequence[Any],
    relevance: Sequence[int],
    *,
    num_queries: int = 6,
    num_results: int = 5,
) -> list[dict[str, Any]]:
    """What evenly spaced queries retrieve, in the form that ``Workspace.gallery`` takes.

    Args:
        scores: (Q, G) similarities.
        queries: Q texts or PIL images.
        items: G texts or PIL images.
        relevance: (Q,) index of the right item.
        num_queries: rows of the gallery, at most Q.
        num_results: items shown per row, at most G.

    >>> import torch
    >>> retrieval_gallery(torch.eye(2), "ab", "cd", [0, 1], num_queries=1, num_results=1)
    [{'query': 'a', 'results': [{'item': 'c', 'score': 1.0, 'correct': True}]}]
    """
    count = min(num_queries, len(queries))
    rows = []
    for q in range(0, len(queries) // count * count, len(queries) // count):
        best = scores[q].topk(min(num_results, len(items)))
        results = [
            {"item": items[i], "score": float(s), "correct": i == int(relevance[q])}
            for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        rows.append({"query": queries[q], "results": results})
    return rows


def same_class_gallery(
    scores: Tensor,
    items: Sequence[Any],
    labels: Sequence[int],
    *,
    num_queries: int = 6,
    num_results: int = 5,
) -> list[dict[str, Any]]:
    """What evenly spaced items retrieve among all others; those of their class are right.

    Args:
        scores: (N, N) similarities.
        items: N texts or PIL images.
        labels: N classes.
        num_queries: rows of the gallery, at most N.
        num_results: items shown per row, at most N - 1.

    >>> import torch
    >>> rows = same_class_gallery(torch.ones(2, 2), "ab", [0, 0], num_queries=1)
    >>> rows[0]["results"]
    [{'item': 'b', 'score': 1.0, 'correct': True}]
    """
    count = min(num_queries, len(items))
    rows = []
    for q in range(0, len(items) // count * count, len(items) // count):
        row = scores[q].clone()
        row[q] = -float("inf")
        best = row.topk(min(num_results, len(items) - 1))
        results = [
            {"item": items[i], "score": float(s), "correct": int(labels[i]) == int(labels[q])}
            for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        rows.append({"query": items[q], "results": results})
    return rows
