"""How much of each of two rankings helps, chosen on a handful of judged queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.data.splits import stable_fraction
from common.evaluation.retrieval.beir import RetrievalSet
from common.evaluation.retrieval.fusion import reciprocal_rank_fusion
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import run_scores
from common.evaluation.retrieval.subsets import query_folds

WEIGHTS = tuple(i / 10 for i in range(11))
FOLDS = 5


@dataclass(frozen=True)
class ChosenFusion:
    """A merged ranking, each query by the weight that was best on other queries.

    Attributes:
        run: query id -> document id -> score.
        weights: of the first ranking, one a fold; 0 and 1 switch a side off.
        num_queries: that a weight was chosen on.
    """

    run: Run
    weights: list[float]
    num_queries: int

    @property
    def weight(self) -> float:
        """Mean weight of the first ranking."""
        return sum(self.weights) / len(self.weights)

    def helped(self, first: str, second: str) -> str:
        """A sentence on which side helped.

        Args:
            first: name of the ranking whose weight is 1 where it is alone.
            second: of the other one.

        >>> ChosenFusion({}, [0.0, 0.0], 10).helped("the encoder", "BM25")
        'chosen on 10 judged queries: BM25 alone, the encoder is switched off'
        """
        low, high = min(self.weights), max(self.weights)
        if high == 0:
            choice = f"{second} alone, {first} is switched off"
        elif low == 1:
            choice = f"{first} alone, {second} is switched off"
        elif low == 0 or high == 1:
            choice = f"no clear choice, {first} has a weight of {low:.1f} to {high:.1f}"
        else:
            choice = f"both help, {first} with a weight of {low:.1f} to {high:.1f}"
        return f"chosen on {self.num_queries} judged queries: {choice}"


def weighted_runs(first: Run, second: Run, depth: int) -> dict[float, Run]:
    """Merged rankings by the weight of the first one: reciprocal ranks, at 0 and 1 one alone.

    Args:
        first: query id -> document id -> score.
        second: the same of the other method.
        depth: documents kept of a query.
    """
    runs: dict[float, Run] = {0.0: second, 1.0: first}
    for weight in WEIGHTS[1:-1]:
        runs[weight] = reciprocal_rank_fusion(
            [first, second], weights=[weight, 1 - weight], depth=depth
        )
    return dict(sorted(runs.items()))


def choose_fusion(
    data: RetrievalSet, candidates: Mapping[float, Run], num_queries: int
) -> ChosenFusion | None:
    """For each fold of the queries the candidate with the best nDCG@10 on a few other queries.

    No query has a part in the choice of its own weight. Of equal candidates the one that leaves a
    side out wins, then the smaller weight.

    Args:
        data: collection, queries, judgements.
        candidates: weight -> ranking of all queries.
        num_queries: judged queries that a weight is chosen on, at most; those of smallest hash.

    Returns:
        The merged ranking; None where fewer than two queries differ.
    """
    texts = len({*data.queries.values()})
    if texts < 2:
        return None
    merged: dict[str, Mapping[str, float]] = {}
    weights, used = [], 0
    for others, held in query_folds(data, min(FOLDS, texts)):
        few = _few(others, num_queries)
        used = max(used, len(few.queries))
        weight = _best(few, candidates)
        weights.append(weight)
        merged |= {query: candidates[weight].get(query, {}) for query in held.queries}
    return ChosenFusion({query: dict(merged[query]) for query in data.queries}, weights, used)


def _few(data: RetrievalSet, count: int) -> RetrievalSet:
    """The set with its first judged queries; folds deal them out by hash."""
    order = sorted(data.queries, key=lambda query: stable_fraction(data.queries[query]))[:count]
    queries = {query: data.queries[query] for query in order}
    return RetrievalSet(data.corpus, queries, {query: data.qrels[query] for query in order})


def _best(data: RetrievalSet, candidates: Mapping[float, Run]) -> float:
    weights: Sequence[float] = sorted(candidates, key=lambda w: (w not in (0.0, 1.0), w))
    values = {
        weight: run_scores(data, candidates[weight], (10,)).metrics["ndcg_at_10"]
        for weight in weights
    }
    return max(weights, key=lambda weight: values[weight])  # the first of equal ones
