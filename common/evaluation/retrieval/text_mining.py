"""Hard negatives for texts: any encoder or BM25 as the teacher, positive-aware."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from common.evaluation.matrices import Metric
from common.evaluation.retrieval.mining import lowest_positive, select_negatives
from common.evaluation.retrieval.runs import OnDisk, bm25_index
from common.evaluation.retrieval.shard_search import search_shards
from common.evaluation.retrieval.vector_shards import EncodeTexts, VectorShards
from common.evaluation.search import SearchResult, search


@dataclass(frozen=True)
class MinedNegatives:
    """What a teacher found.

    Attributes:
        indices: (Q, K) int64 places in the collection, filled up with -1.
        dropped: (Q,) how many of a query's K nearest candidates the filter took out.
        nearest: (Q,) how many there were.
    """

    indices: Tensor
    dropped: Tensor
    nearest: Tensor

    @property
    def removed(self) -> float:
        """Share of the nearest candidates that the filter took out."""
        return float(self.dropped.sum().double() / self.nearest.sum().clamp(min=1))

    def texts(self, collection: Sequence[str]) -> list[list[str]]:
        """The negatives of every query."""
        return [[collection[i] for i in row if i >= 0] for row in self.indices.tolist()]


class TextMiner:
    """A teacher with its collection, which is indexed once.

    Source: Moreira et al. 2024, "NV-Retriever", section 3, arXiv 2407.15831; Lee et al. 2024,
    "NV-Embed", section 4.1, arXiv 2405.17428 (ratio 0.95).

    Args:
        collection: G distinct texts.
        depth: nearest non-positives of a query that are looked at; at most G minus the largest
            number of positives that any query has.
        query_encoder: teacher for the queries; None takes BM25.
        document_encoder: teacher for the collection; None: the same as for the queries.
        ratio: candidates that score above this share of the query's worst positive are dropped;
            None: naive top-k.
        metric: of the encoders, "cosine" or "dot".
        on_disk: for a collection larger than its shards; its ``model_key`` names the document
            encoder. None: everything in memory.
    """

    def __init__(
        self,
        collection: Sequence[str],
        depth: int,
        *,
        query_encoder: EncodeTexts | None = None,
        document_encoder: EncodeTexts | None = None,
        ratio: float | None = 0.95,
        metric: Metric = "cosine",
        on_disk: OnDisk | None = None,
    ) -> None:
        self.depth, self.ratio, self.query_encoder = depth, ratio, query_encoder
        self.metric, self.device = metric, on_disk.device if on_disk is not None else "cpu"
        if query_encoder is None:
            self.index = bm25_index(collection, on_disk)
            return
        encode = document_encoder or query_encoder
        large = on_disk is not None and on_disk.takes(len(collection))
        shards = on_disk.vectors(encode, collection) if on_disk and large else None
        self.gallery = shards or encode(list(collection))

    def mine(
        self,
        queries: Sequence[str],
        positives: Sequence[Sequence[int]],
        num_negatives: int,
        query_encoder: EncodeTexts | None = None,
    ) -> MinedNegatives:
        """Negatives of some queries; a query's do not depend on the others.

        Args:
            queries: Q texts.
            positives: places in the collection of every query's positives, at least one each.
            num_negatives: K.
            query_encoder: for these queries in place of the teacher's, e.g. under their
                instructions.

        Raises:
            ValueError: lists of unequal length, a query without positive, too small a collection.
        """
        encode = query_encoder or self.query_encoder
        limit = None
        if encode is None:
            result = self.index.search(queries, self.depth, exclude=positives)
            if self.ratio is not None:
                limit = self.index.pair_scores(queries, positives)
        else:
            if num_negatives > self.depth:
                raise ValueError(
                    f"{num_negatives} negatives do not fit into {self.depth} candidates"
                )
            query = encode(list(queries))
            result = self._nearest(query, positives)
            if self.ratio is not None:
                limit = lowest_positive(query, self.gallery, positives, self.metric)
        chosen = select_negatives(result, num_negatives, limit, ratio=self.ratio or 1.0)
        naive = select_negatives(result, num_negatives)
        kept = (naive[:, :, None] == chosen[:, None, :]).any(2) | naive.lt(0)
        return MinedNegatives(chosen, (~kept).sum(1), naive.ge(0).sum(1))

    def _nearest(self, query: Tensor, positives: Sequence[Sequence[int]]) -> SearchResult:
        options: dict[str, Any] = {"metric": self.metric, "exclude": positives}
        options["device"] = self.device
        if isinstance(self.gallery, VectorShards):
            return search_shards(query, self.gallery, self.depth, **options)
        found = search(query, self.gallery, self.depth, **options)
        return SearchResult(found.scores.cpu(), found.indices.cpu())


def candidate_depth(candidates: int, num_documents: int, positives: Sequence[Sequence[int]]) -> int:
    """`candidates`, or what the query with the most positives leaves of a small collection."""
    return min(
        candidates, num_documents - max((len(documents) for documents in positives), default=0)
    )


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
    metric: Metric = "cosine",
    on_disk: OnDisk | None = None,
) -> MinedNegatives:
    """The best-scored texts that are neither positives nor too close to them.

    Args:
        queries: see `TextMiner.mine`.
        collection: see `TextMiner`.
        positives: see `TextMiner.mine`.
        num_negatives: see `TextMiner.mine`.
        query_encoder: see `TextMiner`.
        document_encoder: see `TextMiner`.
        ratio: see `TextMiner`.
        candidates: nearest non-positives that are looked at.
        metric: see `TextMiner`.
        on_disk: see `TextMiner`.

    Returns:
        The negatives; fewer than K where too few candidates are left.

    Raises:
        ValueError: see `TextMiner.mine`.
    """
    miner = TextMiner(
        collection,
        candidate_depth(candidates, len(collection), positives),
        query_encoder=query_encoder,
        document_encoder=document_encoder,
        ratio=ratio,
        metric=metric,
        on_disk=on_disk,
    )
    return miner.mine(queries, positives, num_negatives)


def planted_share(
    negatives: MinedNegatives, planted: Sequence[set[int]], *, among: Sequence[int] | None = None
) -> float:
    """Share of mined negatives that are known to be right for their query.

    Args:
        negatives: of Q queries.
        planted: for each query the places of texts that are right but were not given as positives.
        among: queries that count; None: all.

    >>> import torch
    >>> zero = torch.zeros(2)
    >>> planted_share(MinedNegatives(torch.tensor([[0, 1], [2, -1]]), zero, zero), [{1}, set()])
    0.3333333333333333
    """
    rows = range(len(planted)) if among is None else among
    pairs = [(q, i) for q in rows for i in negatives.indices[q].tolist() if i >= 0]
    return sum(i in planted[q] for q, i in pairs) / max(1, len(pairs))
