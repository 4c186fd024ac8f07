"""A text index whose ranks are merged with those of BM25."""

from collections.abc import Sequence
from typing import Protocol

from common.config import UserError
from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.fusion import reciprocal_rank_fusion
from common.evaluation.retrieval.ranking import Run
from common.evaluation.retrieval.runs import DEPTH
from common.evaluation.retrieval.text_index import Hit, hits
from common.evaluation.retrieval.text_search import SearchesTexts


class HoldsTexts(SearchesTexts, Protocol):
    """An index that shows its texts, such as a `TextIndex`."""

    texts: list[str]


class MergedIndex:
    """Searches an index and the words of its texts.

    Equation: ``s(q, d) = w / (60 + rank_dense) + (1 - w) / (60 + rank_BM25)``, the score of its
    hits; BM25's own score where ``w = 0``.
    Source: see `reciprocal_rank_fusion`.

    Args:
        index: the encoder's index.
        dense_weight: w in [0, 1) of the encoder's ranks.

    Raises:
        UserError: no text of the index has a word.

    >>> import torch
    >>> from common.evaluation.retrieval.text_index import TextIndex
    >>> dense = TextIndex(lambda rows: torch.ones(len(rows), 2), ["red fox", "blue whale"])
    >>> [hit.text for hit in MergedIndex(dense, 0.5).search(["a whale"], k=1)[0]]
    ['blue whale']
    """

    metric = "rank"

    def __init__(self, index: HoldsTexts, dense_weight: float) -> None:
        self.index, self.dense_weight = index, dense_weight
        try:
            self._words = BM25(index.texts)
        except ValueError as error:
            raise UserError(f"search.dense_weight={dense_weight}: {error}") from error

    def __len__(self) -> int:
        return len(self.index)

    def search(
        self, queries: str | Sequence[str], k: int = 5, threshold: float | None = None
    ) -> list[list[Hit]]:
        """The `k` best texts of every query; see `TextIndex.search`.

        Texts that share no word with a query have no rank of BM25.
        """
        queries = [queries] if isinstance(queries, str) else list(queries)
        depth = min(max(k, DEPTH), len(self))
        lexical = self._lexical(queries, depth)
        merged = lexical if self.dense_weight == 0 else self._merged(queries, lexical, depth)
        return [
            hits(self.index.texts, ((int(i), s) for i, s in list(best.items())[:k]), threshold)
            for best in merged.values()
        ]

    def _lexical(self, queries: Sequence[str], depth: int) -> Run:
        result = self._words.search(queries, depth)
        rows = zip(result.indices.tolist(), result.scores.tolist(), strict=True)
        return {
            str(q): {str(i): s for i, s in zip(indices, scores, strict=True) if s > 0}
            for q, (indices, scores) in enumerate(rows)
        }

    def _merged(self, queries: Sequence[str], lexical: Run, depth: int) -> Run:
        dense = {
            str(q): {str(hit.position): hit.score for hit in best}
            for q, best in enumerate(self.index.search(queries, depth))
        }
        weights = [self.dense_weight, 1 - self.dense_weight]
        ranked = [_by_rank(dense), _by_rank(lexical)]
        return reciprocal_rank_fusion(ranked, weights=weights, depth=depth)


def _by_rank(run: Run) -> Run:
    """Places instead of scores, so that equal scores stay in their order."""
    return {
        query: {name: -float(place) for place, name in enumerate(best)}
        for query, best in run.items()
    }
