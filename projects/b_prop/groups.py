"""Training groups of a ranker: a query, one relevant document and others, relevant one first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.retrieval.passages import NegativeDraw, PassageBatches, PassageRecord
from common.data.samplers import Key

PairTokenizer = Callable[[Sequence[tuple[str, str]]], Mapping[str, Tensor]]


class RankingBatch(TypedDict):
    """B groups of G pairs (query, document)."""

    pairs: dict[str, Any]  # what `tokenize` made of the B * G pairs, those of a group together
    group_size: int
    ids: Tensor  # (B,) int64, records


class RankingGroups(Dataset[RankingBatch]):
    """Map-style training set of records that returns whole batches.

    Positive and negatives of an access depend on (seed, epoch, index). Negatives are drawn from
    those of the record (for re-ranking: candidates of the first stage that are not relevant), then
    from documents that are relevant for other queries.

    Args:
        records: queries with their documents.
        group_size: G >= 2, documents of a group.
        tokenize: N pairs of texts -> inputs of the ranker.
        seed: the experiment's seed.

    Raises:
        UserError: no records, or too few documents for a group.
    """

    def __init__(
        self,
        records: Sequence[PassageRecord],
        group_size: int,
        tokenize: PairTokenizer,
        seed: int = 0,
    ) -> None:
        if group_size < 2:
            raise ValueError(f"a group needs two documents at least, got {group_size}")
        self.group_size, self.tokenize = group_size, tokenize
        self._source = PassageBatches(records, NegativeDraw(group_size - 1), _no_texts, seed=seed)

    def __len__(self) -> int:
        return len(self._source)

    def pairs(self, index: int, epoch: int) -> list[tuple[str, str]]:
        """The G pairs of one access, the relevant document first."""
        query, positive, negatives = self._source.example(index, epoch)
        return [(query, document) for document in (positive, *negatives)]

    def __getitem__(self, keys: Sequence[Key]) -> RankingBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        rows = [pair for index, epoch in keys for pair in self.pairs(index, epoch)]
        return {
            "pairs": dict(self.tokenize(rows)),
            "group_size": self.group_size,
            "ids": torch.tensor([index for index, _ in keys]),
        }


def _no_texts(texts: Sequence[str]) -> Mapping[str, Tensor]:
    raise TypeError("groups are tokenised as pairs")
