"""Training batches of labelled pairs: for one sequence a pair, or for two towers."""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.samplers import Key
from common.data.text.pairs.readers import PairSet
from common.data.text.pairs.tasks import Kind
from common.data.text.views import TextViews
from common.encoders.text.cross_encoder import CrossEncoder
from common.encoders.text.template import plain_ids


class SequenceBatch(TypedDict):
    """B pairs as sequences."""

    pairs: dict[str, Tensor]  # ids, mask and segments, (B, L) int64
    labels: Tensor  # see `label_tensor`
    ids: Tensor  # (B,) int64


class TowerBatch(TypedDict):
    """B pairs; rows [0, B) hold the first texts, rows [B, 2 B) the second ones."""

    input_ids: Tensor  # (2 B, L) int64
    attention_mask: Tensor  # (2 B, L) int64
    ids: Tensor  # (B,) int64
    labels: Tensor  # see `label_tensor`
    teacher: NotRequired[Tensor]  # (B, C) float32 logits


def label_tensor(labels: Any, kind: Kind) -> Tensor:
    """Labels as the losses want them: (N,) int64 of classes, (N, 1) float32 else."""
    if kind == "multiclass":
        return torch.as_tensor(labels, dtype=torch.int64)
    return torch.as_tensor(labels, dtype=torch.float32)[:, None]


class SequencePairs(Dataset[SequenceBatch]):
    """Map-style set for a cross-encoder that returns whole batches.

    Args:
        data: pairs.
        kind: of the labels.
        classifier: its tokenizer and lengths.
    """

    def __init__(self, data: PairSet, kind: Kind, classifier: CrossEncoder) -> None:
        self.labels, self.pad = label_tensor(data.labels, kind), classifier.pad
        texts = list(dict.fromkeys([*data.first, *data.second]))
        ids_of = dict(zip(texts, plain_ids(classifier.tokenizer, texts), strict=True))
        self.rows = [classifier.row(ids_of[a], ids_of[b]) for a, b in data.pairs]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key]) -> SequenceBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        places = [index for index, _ in keys]
        return {
            "pairs": self.pad([self.rows[i] for i in places]),
            "labels": self.labels[places],
            "ids": torch.tensor(places),
        }


class TowerPairs(TextViews):
    """Map-style set for two towers, with the teacher's logits next to the labels if there are any.

    Args:
        data: pairs.
        kind: of the labels.
        tokenizer: see `TextViews`.
        max_length: of each text on its own, special pieces included.
        teacher: (N, C) logits in the order of the pairs; None: none.

    Raises:
        ValueError: another number of logits than pairs.
    """

    def __init__(
        self,
        data: PairSet,
        kind: Kind,
        tokenizer: Any,
        *,
        max_length: int = 128,
        teacher: Tensor | None = None,
    ) -> None:
        super().__init__(data.pairs, tokenizer, max_length=max_length)
        if teacher is not None and len(teacher) != len(data):
            raise ValueError(f"{len(teacher)} rows of teacher logits for {len(data)} pairs")
        self.labels, self.teacher = label_tensor(data.labels, kind), teacher

    def __getitem__(self, keys: Sequence[Key]) -> TowerBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        rows = super().__getitem__(keys)
        batch: TowerBatch = {
            "input_ids": rows["input_ids"],
            "attention_mask": rows["attention_mask"],
            "ids": rows["ids"],
            "labels": self.labels[rows["ids"]],
        }
        if self.teacher is not None:
            batch["teacher"] = self.teacher[rows["ids"]]
        return batch


class EvaluationPairs(Dataset[tuple[str, str, float]]):
    """Pairs for validation during training."""

    def __init__(self, data: PairSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[str, str, float]:
        return self.data.first[index], self.data.second[index], float(self.data.labels[index])

    @staticmethod
    def collate(rows: Sequence[tuple[str, str, float]]) -> tuple[list[str], list[str], Tensor]:
        """First texts, second texts and labels (B,) float64."""
        first, second, labels = zip(*rows, strict=True)
        return list(first), list(second), torch.tensor(labels, dtype=torch.float64)
