"""Ranking metrics against graded relevance judgements (qrels), as trec_eval defines them.

Documents with equal scores are ordered by descending id, the rule of trec_eval, so that figures
are comparable with published ones and do not depend on the order of the collection.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.evaluation.search import SearchResult

Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> grade, > 0 is relevant
Run = Mapping[str, Mapping[str, float]]  # query id -> document id -> score, higher is better


def ndcg(gains: NDArray[np.float64], ideal: NDArray[np.float64], k: int) -> float:
    """Normalised discounted cumulative gain of one ranked list.

    Equation: ``DCG@k / IDCG@k``, ``DCG@k = sum_{i=1..k} gain_i / log2(i + 1)``.
    Source: Jarvelin & Kekalainen 2002, with the linear gain and discount of trec_eval.

    Args:
        gains: grades in ranked order, >= 0.
        ideal: grades of all relevant documents in any order, at least one > 0.
        k: cut-off.

    >>> round(ndcg(np.array([0.0, 1.0]), np.array([1.0]), 10), 4)
    0.6309
    """
    best = np.sort(ideal)[::-1]
    return _dcg(gains, k) / _dcg(best, k)


def average_precision(
    relevant: NDArray[np.bool_], num_relevant: int, k: int | None = None, *, capped: bool = False
) -> float:
    """Average precision of one ranked list.

    Equation: ``sum_{i <= k, relevant} precision@i / R`` with ``R = num_relevant``, or
    ``min(num_relevant, k)`` when capped (CIRCO's mAP@k).

    Args:
        relevant: relevance in ranked order.
        num_relevant: relevant documents in all, >= 1.
        k: cut-off; ``None`` takes the whole list.
        capped: divide by what the first k places can hold; needs ``k``.

    Raises:
        ValueError: capped without a cut-off.

    >>> average_precision(np.array([True, False, True]), 2)
    0.8333333333333333
    """
    if capped and k is None:
        raise ValueError("capped average precision needs a cut-off k")
    hits = np.flatnonzero(relevant[:k]) + 1
    reachable = min(num_relevant, k) if capped and k is not None else num_relevant
    return float((np.arange(1, len(hits) + 1) / hits).sum() / reachable)


def per_query_metrics(
    qrels: Qrels, run: Run, ks: Sequence[int] = (10, 100)
) -> dict[str, dict[str, float]]:
    """Metrics of every judged query, for instance as items of a paired bootstrap.

    Queries without a relevant document are left out (nothing is defined for them; trec_eval and
    BEIR count them as 0, so means differ where queries are judged 0 alone); a query that is missing
    in the run scores 0; queries without judgements and judged documents that are not in the run
    count as in trec_eval (ignored, not retrieved).

    Args:
        qrels: query id -> document id -> grade.
        run: query id -> document id -> score.
        ks: cut-offs.

    Returns:
        query id -> ``ndcg_at_k``, ``recall_at_k``, ``precision_at_k``, ``mrr_at_k``, ``map_at_k``
        for every k, and ``mrr``, ``map`` over the whole list.

    Raises:
        ValueError: no cut-offs, no query with a relevant document, no query of the run is judged,
            or a score is NaN.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"cut-offs must be >= 1, got {tuple(ks)}")
    judged = {q: grades for q, grades in qrels.items() if any(g > 0 for g in grades.values())}
    if not judged:
        raise ValueError("no query of the qrels has a relevant document")
    if not judged.keys() & run.keys():
        raise ValueError("the run contains none of the judged queries; do the ids match?")
    return {query: _one_query(judged[query], run.get(query, {}), ks) for query in judged}


def ranking_metrics(
    qrels: Qrels, run: Run, ks: Sequence[int] = (10, 100), *, corpus_size: int | None = None
) -> dict[str, float]:
    """Means over queries of `per_query_metrics`.

    Args:
        qrels: query id -> document id -> grade.
        run: query id -> document id -> score.
        ks: cut-offs.
        corpus_size: documents in the collection; adds ``ndcg_at_k_chance`` and
            ``recall_at_k_chance``, the expectations under a random order.

    Raises:
        ValueError: as `per_query_metrics`.

    Distributed: local.

    >>> m = ranking_metrics({"q": {"a": 1}}, {"q": {"a": 0.1, "b": 0.9}}, ks=(10,))
    >>> m["mrr"], m["recall_at_10"]
    (0.5, 1.0)
    """
    rows = per_query_metrics(qrels, run, ks)
    names = next(iter(rows.values())).keys()
    metrics = {name: float(np.mean([row[name] for row in rows.values()])) for name in names}
    if corpus_size is not None:
        for k in ks:
            reach = min(k, corpus_size)
            expected = [_chance_ndcg(qrels[query], reach, corpus_size) for query in rows]
            metrics[f"ndcg_at_{k}_chance"] = float(np.mean(expected))
            metrics[f"recall_at_{k}_chance"] = reach / corpus_size
    return metrics


def to_run(
    result: SearchResult,
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    *,
    drop_identical: bool = False,
) -> dict[str, dict[str, float]]:
    """Name the rows and columns of a search result.

    Args:
        result: indices and scores, (Q, K); negative indices are skipped.
        query_ids: (Q,) ids.
        document_ids: (G,) ids.
        drop_identical: leave out the hit whose id is the query's own (BEIR's rule for sets whose
            queries are documents).

    Raises:
        ValueError: the number of query ids differs from the rows, or an id occurs twice.
    """
    if len(query_ids) != len(result.indices):
        raise ValueError(f"{len(query_ids)} query ids for {len(result.indices)} rows")
    for name, ids in (("query", query_ids), ("document", document_ids)):
        if len(set(ids)) != len(ids):
            raise ValueError(f"{name} ids are not unique")
    run: dict[str, dict[str, float]] = {}
    rows = zip(query_ids, result.indices.tolist(), result.scores.tolist(), strict=True)
    for query, indices, scores in rows:
        hits = {document_ids[i]: s for i, s in zip(indices, scores, strict=True) if i >= 0}
        if drop_identical:
            hits.pop(query, None)
        run[query] = hits
    return run


def _one_query(
    grades: Mapping[str, int], scores: Mapping[str, float], ks: Sequence[int]
) -> dict[str, float]:
    if any(score != score for score in scores.values()):
        raise ValueError("a score of the run is NaN")
    ranked = sorted(scores, key=lambda document: (scores[document], document), reverse=True)
    gains = np.array([max(grades.get(document, 0), 0) for document in ranked], dtype=np.float64)
    ideal = np.array([max(grade, 0) for grade in grades.values()], dtype=np.float64)
    relevant, num_relevant = gains > 0, int((ideal > 0).sum())
    first = int(np.argmax(relevant)) + 1 if relevant.any() else 0
    row: dict[str, float] = {}
    for k in ks:
        row[f"ndcg_at_{k}"] = ndcg(gains, ideal, k)
        row[f"recall_at_{k}"] = float(relevant[:k].sum() / num_relevant)
        row[f"precision_at_{k}"] = float(relevant[:k].sum() / k)  # places without a hit count
        row[f"mrr_at_{k}"] = 1 / first if 0 < first <= k else 0.0
        row[f"map_at_{k}"] = average_precision(relevant, num_relevant, k)
    row["mrr"] = 1 / first if first else 0.0
    row["map"] = average_precision(relevant, num_relevant)
    return row


def _dcg(gains: NDArray[np.float64], k: int) -> float:
    gains = gains[:k]
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())


def _chance_ndcg(grades: Mapping[str, int], k: int, corpus_size: int) -> float:
    """Expected nDCG@k of a random order: the mean grade stands at every place."""
    ideal = np.array([max(grade, 0) for grade in grades.values()], dtype=np.float64)
    return ndcg(np.full(k, ideal.sum() / corpus_size), ideal, k)
