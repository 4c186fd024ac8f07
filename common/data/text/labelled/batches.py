"""Training batches of labelled texts, each perhaps with one altered copy alongside it.

# B examples, V views (1, or 2 with copies), L length
"""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.samplers import Key, sample_rng
from common.data.text.labelled.readers import LabelledSet, Texts
from common.encoders.text.tuned.classifier import TextClassifier

Copies = list[list[Texts]]  # of each example, perhaps none


_COPY_STREAM = 64


class ClassBatch(TypedDict):
    """V * B rows: rows [0, B) are the originals, rows [B, 2 B) a copy of each."""

    inputs: dict[str, Tensor]  # ids, mask and perhaps segments, (V B, L) int64
    labels: Tensor  # (V B,) int64
    ids: Tensor  # (B,) int64


class ClassBatches(Dataset[ClassBatch]):
    """Map-style set that returns whole batches.

    Args:
        data: N examples.
        classifier: its tokenizer and lengths.
        copies: of each example; None: no second view. Which copy is taken depends on seed, epoch
            and example; an example without copies is its own.
        seed: of the choice.
    """

    def __init__(
        self,
        data: LabelledSet,
        classifier: TextClassifier,
        copies: Copies | None = None,
        seed: int = 0,
    ) -> None:
        self.labels, self.seed, self.pad = torch.as_tensor(data.labels), seed, classifier.pad
        self.rows = classifier.rows(data.texts)
        self.copies: list[list[dict[str, list[int]]]] | None = None
        if copies is not None:
            if len(copies) != len(data):
                raise ValueError(f"copies of {len(copies)} examples for {len(data)}")
            flat = [copy for several in copies for copy in several]
            tokenized = iter(classifier.rows(flat) if flat else [])
            self.copies = [[next(tokenized) for _ in several] for several in copies]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key]) -> ClassBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        places = [index for index, _ in keys]
        rows = [self.rows[i] for i in places]
        labels = self.labels[places]
        if self.copies is not None:
            rows += [self._copy(index, epoch) for index, epoch in keys]
            labels = labels.repeat(2)
        return {"inputs": self.pad(rows), "labels": labels, "ids": torch.tensor(places)}

    def _copy(self, index: int, epoch: int) -> dict[str, list[int]]:
        choices = self.copies[index] if self.copies is not None else []
        if not choices:
            return self.rows[index]
        return choices[
            int(sample_rng(self.seed, epoch, index, _COPY_STREAM).integers(len(choices)))
        ]


class EvaluationTexts(Dataset[tuple[Texts, int]]):
    """Texts for validation during training."""

    def __init__(self, data: LabelledSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Texts, int]:
        return self.data.texts[index], int(self.data.labels[index])

    @staticmethod
    def collate(rows: Sequence[tuple[Texts, int]]) -> tuple[list[Texts], Tensor]:
        """Texts and labels (B,) int64."""
        texts, labels = zip(*rows, strict=True)
        return list(texts), torch.tensor(labels)
