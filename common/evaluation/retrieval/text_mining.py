"""Hard negatives for texts: any encoder or BM25 as the teacher, positive-aware."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from common.evaluation.retrieval.bm25 import BM25
from common.evaluation.retrieval.mining import mine_hard_negatives, select_negatives

EncodeTexts = Callable[[list[str]], Tensor]  # N texts -> (N, D)


@dataclass(frozen=True)
class MinedNegatives:
    """What a teacher found.

    Attributes:
        indices: (Q, K) int64 places in the collection, filled up with -1.
        removed: share of the K nearest candidates that the filter took out.
    """

    indices: Tensor
    removed: float

    def texts(self, collection: Sequence[str]) -> list[list[str]]:
        """The negatives of every query."""
        return [[collection[i] for i in row if i >= 0] for row in self.indices.tolist()]


def mine_text_negatives(
    queries: Sequence[str],
    collection: Sequence[str],
    positives: Sequence[Sequence[int]],
    num_negatives: int,
    *,
    query_encoder: EncodeTexts | None = None,
    document_encoder: EncodeTexts | None = None,
    ratio: float | None = 0.95,
    candidates: int = 100,
) -> MinedNegatives:
    """The best-scored texts that are not positives and not too close to them.

    Source: Moreira et al. 2024, "NV-Retriever", section 3, arXiv 2407.15831; Lee et al. 2024,
    "NV-Embed", section 4.1, arXiv 2405.17428 (ratio 0.95).

    Args:
        queries: Q texts.
        collection: G distinct texts.
        positives: places in the collection of every query's positives, at least one each.
        num_negatives: K.
        query_encoder: teacher for the queries; None takes BM25.
        document_encoder: teacher for the collection; None: the same as for the queries.
        ratio: candidates that score above this share of the query's worst positive are dropped;
            None: naive top-k.
        candidates: nearest non-positives that are looked at.

    Returns:
        The negatives; fewer than K where too few candidates are left.

    Raises:
        ValueError: lists of unequal length, a query without positive, too small a collection.
    """
    most = max((len(own) for own in positives), default=0)
    depth = min(candidates, len(collection) - most)
    if query_encoder is None:
        index = BM25(collection)
        found = index.search(queries, depth, exclude=positives)
        limit = None if ratio is None else index.pair_scores(queries, positives)
        chosen = select_negatives(found, num_negatives, limit, ratio=ratio or 1.0)
        naive = select_negatives(found, num_negatives)
    else:
        query = query_encoder(list(queries))
        gallery = (document_encoder or query_encoder)(list(collection))
        chosen, naive = (
            mine_hard_negatives(
                query, gallery, positives, num_negatives, candidates=depth, max_positive_ratio=r
            )
            for r in (ratio, None)
        )
    kept = (naive[:, :, None] == chosen[:, None, :]).any(2) | naive.lt(0)
    return MinedNegatives(chosen, float((~kept).double().sum() / naive.ge(0).sum().clamp(min=1)))


def planted_share(
    negatives: MinedNegatives, planted: Sequence[set[int]], *, among: Sequence[int] | None = None
) -> float:
    """Share of mined negatives that are known to be right for their query.

    Args:
        negatives: of Q queries.
        planted: for each query the places of texts that are right but were not given as positives.
        among: queries that count; None: all.

    >>> planted_share(MinedNegatives(torch.tensor([[0, 1], [2, -1]]), 0.0), [{1}, set()])
    0.3333333333333333
    """
    rows = range(len(planted)) if among is None else among
    pairs = [(q, i) for q in rows for i in negatives.indices[q].tolist() if i >= 0]
    return sum(i in planted[q] for q, i in pairs) / max(1, len(pairs))
