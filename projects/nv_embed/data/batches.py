"""Training batches of embedding tasks: queries with instruction, positives, hard negatives."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.mixture import TaskMixture
from common.data.retrieval.records import EmbeddingRecord
from common.data.samplers import Key, sample_rng
from projects.nv_embed.data.records import EmbeddingTask

_DRAW_STREAM = 2**31 + 41
_TRIES = 20  # draws of a document that is not wrong for the query

TokenRows = Callable[[Sequence[str], str], list[tuple[list[int], int]]]
Pad = Callable[[Sequence[tuple[Sequence[int], int]]], dict[str, Tensor]]


class TextInputs(TypedDict):
    """N texts, right-padded."""

    input_ids: Tensor  # (N, L) int64
    attention_mask: Tensor  # (N, L) int64
    pool_mask: Tensor  # (N, L) int64, without the instruction


class InstructionBatch(TypedDict):
    """B examples with K hard negatives each."""

    query: TextInputs  # B texts
    document: TextInputs  # B positives, then B * K negatives, those of a query together
    task: Tensor  # (B,) int64, index of the training set
    label: Tensor  # (B,) int64, class within all labelled sets; -1 elsewhere
    # (B, 1 + K) int64, the same of the positive and of the negatives; -1 where it is not known
    document_label: Tensor
    ids: Tensor  # (B,) int64, places in the epoch


class InstructionBatches(Dataset[InstructionBatch]):
    """Map-style training set that returns whole batches, to be read in order (``shuffle=False``).

    The order is the mixture's. Positive and negatives of an access depend on (seed, epoch, place):
    one of the record's positives, K of its negatives without repetition. A record with fewer gets
    random documents of its set, for labelled sets of other classes; where there is none left (names
    of two classes), a negative is repeated. No positive of the query is among them, also of another
    record of the same query.

    Args:
        tasks: training sets.
        mixture: order of their examples.
        token_rows: tokenises texts with an instruction, see `InstructedEncoder.token_rows`.
        pad: stacks such rows, see `InstructedEncoder.pad`.
        num_negatives: K.
        seed: the experiment's seed.
    """

    def __init__(
        self,
        tasks: Sequence[EmbeddingTask],
        mixture: TaskMixture,
        token_rows: TokenRows,
        pad: Pad,
        *,
        num_negatives: int,
        seed: int,
    ) -> None:
        if num_negatives < 0:
            raise UserError(f"data.num_negatives must be >= 0, got {num_negatives}")
        self.tasks, self.mixture = list(tasks), mixture
        self.token_rows, self.pad = token_rows, pad
        self.num_negatives, self.seed = num_negatives, seed
        self._pools = [_Pool(task) for task in self.tasks]
        labels = sorted({(t.name, r.label) for t in self.tasks for r in t.records if r.label})
        self._label_ids = {label: i for i, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, keys: Sequence[Key]) -> InstructionBatch:
        """Batch of the given ``(place, epoch)`` keys."""
        chosen = [self.example(place, epoch) for place, epoch in keys]
        tasks = [self.tasks[t] for t, *_ in chosen]
        queries = [
            self.token_rows([record.query], task.instruction_of(record))[0]
            for task, (_, record, _, _) in zip(tasks, chosen, strict=True)
        ]
        positives, negatives = [], []
        for task, (_, _, positive, wrong) in zip(tasks, chosen, strict=True):
            rows = self.token_rows([positive, *wrong], task.document_instruction)
            positives.append(rows[0])
            negatives += rows[1:]
        labels = [
            self._label_ids.get((task.name, record.label or ""), -1)
            for task, (_, record, _, _) in zip(tasks, chosen, strict=True)
        ]
        of_documents = [
            [
                self._label_ids.get((self.tasks[t].name, self._pools[t].labels.get(text) or ""), -1)
                for text in (right, *wrong)
            ]
            for t, _, right, wrong in chosen
        ]
        return {
            "query": self.pad(queries),  # type: ignore[typeddict-item]
            "document": self.pad(positives + negatives),  # type: ignore[typeddict-item]
            "task": torch.tensor([t for t, *_ in chosen]),
            "label": torch.tensor(labels),
            "document_label": torch.tensor(of_documents),
            "ids": torch.tensor([place for place, _ in keys]),
        }

    def example(self, place: int, epoch: int) -> tuple[int, EmbeddingRecord, str, list[str]]:
        """Set, record, positive and K negatives at a place of an epoch."""
        task, row = (int(i) for i in self.mixture.order(epoch)[place])
        record = self.tasks[task].records[row]
        rng = sample_rng(self.seed, epoch, place, _DRAW_STREAM)
        positive = record.positives[int(rng.integers(len(record.positives)))]
        pool = self._pools[task]
        negatives = [text for text in record.negatives if text not in pool.right[record.query]]
        chosen = rng.permutation(len(negatives))[: self.num_negatives]
        wrong = [negatives[int(i)] for i in chosen]
        while len(wrong) < self.num_negatives:
            wrong.append(pool.draw(rng, record, wrong))
        return task, record, positive, wrong


class _Pool:
    """Documents of a set, their classes if any, and what is right for each query."""

    def __init__(self, task: EmbeddingTask) -> None:
        self.name, self.texts = task.name, task.documents()
        self.labels: dict[str, str | None] = {}
        self.right: dict[str, set[str]] = {}
        for record in task.records:  # a text that is nobody's positive has a class as a query
            self.labels.setdefault(record.query, record.label)
        for record in task.records:
            self.labels.update(dict.fromkeys(record.positives, record.label))
            self.right.setdefault(record.query, {record.query}).update(record.positives)

    def draw(self, rng: np.random.Generator, record: EmbeddingRecord, taken: list[str]) -> str:
        right = self.right[record.query]

        def wrong(text: str) -> bool:
            same_class = record.label is not None and self.labels.get(text) == record.label
            return text not in right and not same_class

        for _ in range(_TRIES):
            text = self.texts[int(rng.integers(len(self.texts)))]
            if text not in taken and wrong(text):
                return text
        left = [text for text in self.texts if text not in taken and wrong(text)] or taken
        if left:
            return left[int(rng.integers(len(left)))]
        raise UserError(
            f"the training set '{self.name}' has no further document that is wrong for "
            f"{record.query[:60]!r}; lower data.num_negatives"
        )
