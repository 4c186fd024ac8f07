"""Rankings of several methods merged into one, query by query."""

from collections.abc import Mapping, Sequence

from common.evaluation.retrieval.ranking import Run

MIN_WIDTH = 1e-9  # of the scores of a query, as released with PromptReps


def linear_fusion(
    runs: Sequence[Run],
    weights: Sequence[float] | None = None,
    *,
    depth: int | None = None,
    flat: float = 1.0,
) -> Run:
    """Weighted sum of scores that each run scales to [0, 1] within a query.

        s(q, d) = sum_r w_r (s_r(q, d) - min_d s_r) / (max_d s_r - min_d s_r)

    A document that a run doesn't hold has 0 there; a run whose scores for a query are all equal
    gives `flat` to all of them.

    Source: Ma et al. 2021, "A replication study of dense passage retriever", arXiv 2104.05740 (the
    interpolation); Zhuang et al. 2024, "PromptReps", section 3, arXiv 2404.18424 (min-max).

    Args:
        runs: query id -> document id -> score, of each method.
        weights: of the runs; None: equal ones that sum to 1.
        depth: documents kept of a query; None: all.
        flat: see above; PromptReps' code has 0, also for the only hit of a query.

    Raises:
        ValueError: no runs, or another number of weights.

    >>> linear_fusion([{"q": {"a": 4.0, "b": 2.0}}, {"q": {"b": 9.0}}], weights=[0.75, 0.25])
    {'q': {'a': 0.75, 'b': 0.25}}
    """
    weights = [1 / len(runs)] * len(runs) if weights is None and runs else weights
    if not runs or weights is None or len(weights) != len(runs):
        raise ValueError(f"{len(runs)} runs need as many weights, got {weights}")
    return _merged([_scaled(run, flat) for run in runs], weights, depth)


def reciprocal_rank_fusion(
    runs: Sequence[Run],
    *,
    weights: Sequence[float] | None = None,
    k: int = 60,
    depth: int | None = None,
) -> Run:
    """Sum of the reciprocals of ranks: ``s(q, d) = sum_r w_r / (k + rank_r(q, d))``.

    Source: Cormack et al. 2009, "Reciprocal rank fusion outperforms Condorcet", SIGIR.

    Args:
        runs: query id -> document id -> score, of each method; ranks count from 1, equal scores as
            in `common.evaluation.retrieval.ranking`.
        weights: of the runs; None: 1 each, as in the source.
        k: > 0, 60 in the source.
        depth: documents kept of a query; None: all.

    Raises:
        ValueError: no runs, or another number of weights.

    >>> found = reciprocal_rank_fusion([{"q": {"a": 4.0, "b": 2.0}}, {"q": {"b": 9.0}}], k=1)
    >>> found["q"]["a"], round(found["q"]["b"], 3)
    (0.5, 0.833)
    """
    if not runs:
        raise ValueError("there is no run to merge")
    if weights is not None and len(weights) != len(runs):
        raise ValueError(f"{len(runs)} runs need as many weights, got {weights}")
    ranked = [
        {q: {d: 1 / (k + i) for i, d in enumerate(_order(hits), 1)} for q, hits in run.items()}
        for run in runs
    ]
    return _merged(ranked, [1.0] * len(runs) if weights is None else weights, depth)


def _order(hits: Mapping[str, float]) -> list[str]:
    return sorted(hits, key=lambda document: (hits[document], document), reverse=True)


def max_sum(
    runs: Sequence[Sequence[Run]], *, depth: int | None = None
) -> dict[str, dict[str, float]]:
    """Texts with several vectors: the best similarity for each query vector, summed.

        s(q, d) = sum_i max(0, max_j s_ij(q, d))

    over retrieved lists: a document that a list doesn't hold has 0 there.

    Source: Khattab & Zaharia 2020, "ColBERT", arXiv 2004.12832 (late interaction); Zhuang et al.
    2024, "PromptReps", released code (on lists, from 0 on), arXiv 2404.18424.

    Args:
        runs: for each vector of a query, runs over the first, second, ... vectors of documents.
        depth: documents kept of a query; None: all.

    Raises:
        ValueError: no runs.

    >>> max_sum([[{"q": {"a": 1.0}}, {"q": {"a": 3.0, "b": 2.0}}], [{"q": {"b": 2.0}}]])
    {'q': {'b': 4.0, 'a': 3.0}}
    """
    if not runs:
        raise ValueError("there is no run to merge")
    best: list[Run] = []
    for scores in runs:
        largest: dict[str, dict[str, float]] = {}
        for run in scores:
            for query, hits in run.items():
                kept = largest.setdefault(query, {})
                for document, score in hits.items():
                    kept[document] = max(0.0, score, kept.get(document, 0.0))
        best.append(largest)
    return _merged(best, [1.0] * len(best), depth)


def _scaled(run: Run, flat: float) -> Run:
    scaled = {}
    for query, hits in run.items():
        low, high = min(hits.values(), default=0.0), max(hits.values(), default=0.0)
        width = high - low
        scaled[query] = {
            d: (s - low) / max(width, MIN_WIDTH) if width else flat for d, s in hits.items()
        }
    return scaled


def _merged(
    runs: Sequence[Run], weights: Sequence[float], depth: int | None
) -> dict[str, dict[str, float]]:
    merged: dict[str, dict[str, float]] = {}
    for run, weight in zip(runs, weights, strict=True):
        for query, hits in run.items():
            summed = merged.setdefault(query, {})
            for document, score in hits.items():
                summed[document] = summed.get(document, 0.0) + weight * score
    return {q: {d: hits[d] for d in _order(hits)[:depth]} for q, hits in merged.items()}
