"""Cross-modal and within-modality retrieval: ranks, Recall@k, MRR and mean average precision.

Ties are pessimistic: an irrelevant item that scores as high as the relevant one ranks before it.
A collapsed encoder, for which everything ties, therefore scores 0 and not by the order of files.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.evaluation.matrices import (
    Indices,
    Metric,
    as_pair,
    blocks,
    exact_math,
    fill_pairs,
    index_pairs,
    tie_margin,
)


def relevant_ranks(
    query: Tensor,
    gallery: Tensor,
    relevance: Indices,
    *,
    exclude: Indices | None = None,
    metric: Metric = "cosine",
    chunk_size: int = 4096,
) -> Tensor:
    """Rank of the best relevant gallery item of every query, counted from 1.

    Equation: ``rank_q = 1 + min_p #{j not relevant: s_qj >= s_qp}`` over relevant ``p``.

    Args:
        query: (Q, D) embeddings.
        gallery: (G, D) embeddings.
        relevance: relevant gallery indices, one per query ((Q,) integers) or a list per query.
        exclude: gallery indices removed per query (the query itself, a reference image).
        metric: ``"cosine"`` or ``"dot"``.
        chunk_size: queries and gallery items per block.

    Returns:
        (Q,) int64, 1 is best.

    Raises:
        ValueError: shapes do not fit, an index is out of range, a query has no relevant item, or
            a relevant item is excluded.

    Distributed: local.

    >>> gallery = torch.eye(3)
    >>> relevant_ranks(gallery[:2], gallery, [0, 2]).tolist()
    [1, 3]
    """
    pairs, counts, _ = _irrelevant_before(query, gallery, relevance, exclude, metric, chunk_size)
    best = torch.full((len(query),), len(gallery), dtype=torch.long)
    return best.scatter_reduce(0, pairs[:, 0], counts, "amin") + 1


def cross_modal_recall(
    query: Tensor,
    gallery: Tensor,
    relevance: Indices,
    ks: Sequence[int] = (1, 5, 10),
    *,
    exclude: Indices | None = None,
    metric: Metric = "cosine",
    chunk_size: int = 4096,
) -> dict[str, float]:
    """Retrieval quality of ``query`` against ``gallery``, with the values of a random ranking.

    A query counts as solved at k when any of its relevant items is among the first k.

    Args:
        query: (Q, D) embeddings.
        gallery: (G, D) embeddings.
        relevance: relevant gallery indices, one per query or a list per query.
        ks: cut-offs.
        exclude: gallery indices removed per query.
        metric: ``"cosine"`` or ``"dot"``.
        chunk_size: queries and gallery items per block.

    Returns:
        ``recall_at_k`` and ``recall_at_k_chance`` for every k, ``mrr`` (of the first relevant
        item), ``map`` (average precision over all relevant items), ``median_rank``.

    Raises:
        ValueError: as `relevant_ranks`, or a cut-off below 1.

    Distributed: local.

    >>> gallery = torch.eye(2)
    >>> cross_modal_recall(gallery, gallery, [0, 0], ks=(1,))["recall_at_1"]
    0.5
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"cut-offs must be >= 1, got {tuple(ks)}")
    pairs, counts, pool = _irrelevant_before(query, gallery, relevance, exclude, metric, chunk_size)
    rows, first, precision = _average_precision(pairs[:, 0].numpy(), counts.numpy())
    num_relevant = np.bincount(rows, minlength=len(query))
    metrics: dict[str, float] = {}
    for k in ks:
        metrics[f"recall_at_{k}"] = float((first <= k).mean())
        metrics[f"recall_at_{k}_chance"] = _chance_recall(num_relevant, pool.numpy(), k)
    metrics["mrr"] = float((1 / first).mean())
    metrics["map"] = float(precision.mean())
    metrics["median_rank"] = float(np.median(first))
    return metrics


def image_text_retrieval(
    images: Tensor, texts: Tensor, image_of_text: Tensor, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Retrieval in both directions where an image may have several texts.

    Args:
        images: (I, D) embeddings.
        texts: (T, D) embeddings.
        image_of_text: (T,) int, the image that each text describes; every image needs a text.
        ks: cut-offs.

    Returns:
        The metrics of `cross_modal_recall` under ``image_to_text_`` and ``text_to_image_``, and
        ``recall_mean``, the mean of all recalls of both directions.

    Raises:
        ValueError: shapes do not fit or an image has no text.

    Distributed: local.

    >>> image_text_retrieval(torch.eye(2), torch.eye(2), torch.arange(2), ks=(1,))["recall_mean"]
    1.0
    """
    texts_of_image: list[list[int]] = [[] for _ in range(len(images))]
    for text, image in enumerate(image_of_text.tolist()):
        if not 0 <= image < len(images):
            raise ValueError(f"text {text} belongs to image {image}, but there are {len(images)}")
        texts_of_image[image].append(text)
    directions = {
        "image_to_text": cross_modal_recall(images, texts, texts_of_image, ks),
        "text_to_image": cross_modal_recall(texts, images, image_of_text, ks),
    }
    metrics = {f"{d}_{name}": v for d, part in directions.items() for name, v in part.items()}
    recalls = [part[f"recall_at_{k}"] for part in directions.values() for k in ks]
    return metrics | {"recall_mean": sum(recalls) / len(recalls)}


def _checked_pairs(
    relevance: Indices, exclude: Indices | None, num_queries: int, num_gallery: int
) -> tuple[Tensor, Tensor]:
    """Relevant and excluded pairs, (P, 2) and (X, 2), sorted by query."""
    relevant = index_pairs(relevance, num_queries, num_gallery, "relevance")
    removed = index_pairs(
        [[]] * num_queries if exclude is None else exclude, num_queries, num_gallery, "exclude"
    )
    without = set(range(num_queries)) - set(relevant[:, 0].tolist())
    if without:
        raise ValueError(f"query {min(without)} has no relevant gallery item")
    clash = set(map(tuple, relevant.tolist())) & set(map(tuple, removed.tolist()))
    if clash:
        query, item = min(clash)
        raise ValueError(f"gallery item {item} is both relevant and excluded for query {query}")
    return relevant, removed


def _irrelevant_before(
    query: Tensor,
    gallery: Tensor,
    relevance: Indices,
    exclude: Indices | None,
    metric: Metric,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevant pairs (P, 2), irrelevant items at or before each (P,), pool size per query (Q,)."""
    query, gallery = as_pair(query, gallery, metric)
    pairs, removed = _checked_pairs(relevance, exclude, len(query), len(gallery))
    masked = torch.cat([pairs, removed])
    masked = masked[masked[:, 0].argsort(stable=True)]
    counts = torch.zeros(len(pairs), dtype=torch.long, device=query.device)
    with exact_math(query.device):
        threshold = counts.to(query.dtype)
        for part in blocks(len(pairs), chunk_size):
            q, g = pairs[part].unbind(dim=1)
            threshold[part] = (query[q] * gallery[g]).sum(dim=1)
        threshold -= tie_margin(query, gallery)[pairs[:, 0]]
        for rows in blocks(len(query), chunk_size):
            bounds = torch.tensor([rows.start, rows.stop])
            first, last = torch.searchsorted(pairs[:, 0].contiguous(), bounds).tolist()
            for columns in blocks(len(gallery), chunk_size):
                scores = query[rows] @ gallery[columns].T
                fill_pairs(scores, masked, rows, columns)
                for part in blocks(last - first, chunk_size):
                    p = slice(first + part.start, first + part.stop)
                    local = (pairs[p, 0] - rows.start).to(scores.device)
                    counts[p] += (scores[local] >= threshold[p, None]).sum(dim=1)
    pool = len(gallery) - torch.bincount(removed[:, 0], minlength=len(query))
    return pairs, counts.cpu(), pool


def _average_precision(
    rows: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Query of each pair (sorted), first rank (Q,) and average precision (Q,) per query."""
    order = np.lexsort((counts, rows))
    rows, counts = rows[order], counts[order]
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    sizes = np.diff(np.r_[starts, len(rows)])
    position = np.arange(len(rows)) - np.repeat(starts, sizes) + 1  # among the relevant items
    precision = position / (counts + position)
    return rows, counts[starts] + 1, np.add.reduceat(precision, starts) / sizes


def _chance_recall(num_relevant: NDArray[np.int64], pool: NDArray[np.int64], k: int) -> float:
    """Probability that a random order shows a relevant item among the first k, mean of queries."""
    miss = np.ones(len(pool))
    for i in range(k):
        miss *= np.clip((pool - num_relevant - i) / np.maximum(pool - i, 1), 0, 1)
    return float((1 - miss).mean())
