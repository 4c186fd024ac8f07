"""Rows of a retrieval gallery: some queries with the best items of each."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
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


def class_extremes(
    scores: Tensor,
    labels: Tensor,
    names: Sequence[str],
    query: Callable[[int], Any],
    *,
    num_queries: int = 6,
    num_results: int = 5,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Items whose own class is furthest ahead of the others, and furthest behind them.

    Args:
        scores: (N, C) similarities of items and classes.
        labels: (N,) int in [0, C).
        names: C names of classes.
        query: number of an item -> text or PIL image.
        num_queries: rows of each gallery, at most N.
        num_results: classes shown per row, at most C.

    Returns:
        Rows of two galleries, the best items and the worst ones.

    >>> scores, labels = torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([0, 0])
    >>> best, worst = class_extremes(scores, labels, ["cat", "dog"], str, num_queries=1)
    >>> best[0]["query"], worst[0]["query"], worst[0]["results"][0]
    ('1', '0', {'item': 'dog', 'score': 2.0, 'correct': False})
    """
    own = scores.gather(1, labels[:, None])
    others = scores.scatter(1, labels[:, None], -torch.inf)
    order = (own[:, 0] - others.max(1).values).argsort(stable=True).tolist()

    def row(i: int) -> dict[str, Any]:
        best = scores[i].topk(min(num_results, len(names)))
        results = [
            {"item": names[c], "score": score, "correct": c == int(labels[i])}
            for score, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        return {"query": query(i), "results": results}

    return [row(i) for i in order[::-1][:num_queries]], [row(i) for i in order[:num_queries]]
