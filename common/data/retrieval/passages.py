"""Questions with passages for fine-tuning a retriever: positives, negatives, mined hard negatives.

A record has the fields of DPR: ``question``, ``positive_ctxs``, ``negative_ctxs`` and
``hard_negative_ctxs``, lists of ``{"title", "text"}``; the last two may be absent.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.padding import TextInputs
from common.data.retrieval.readers import read_dpr
from common.data.samplers import Key, sample_rng
from common.data.tables import write_jsonl

MAX_PERMUTED = 10_000  # random passages are drawn one by one where there are more
_DRAW_STREAM = 2**31 + 61


@dataclass(frozen=True)
class PassageRecord:
    """One question; passages are ``title + " " + text``.

    Attributes:
        question: what is asked.
        positives: at least one passage.
        negatives: passages that don't answer.
        hard_negatives: passages that a retriever took for answers, best first.
    """

    question: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    hard_negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class NegativeDraw:
    """How many negatives a question gets, and of which kind.

    Each of `count` places is a hard one with probability `hard_ratio`, as far as there are hard
    negatives beyond the first `hard_min_idx`; the others are `negatives`, and where those run out,
    random passages of other questions. No passage that answers the question is a negative, and none
    is drawn twice.

    Source: Izacard et al. 2022, "Contriever", released code (finetuning_data), arXiv 2112.09118.
    """

    count: int = 1
    hard_ratio: float = 0.0
    hard_min_idx: int = 0

    def __post_init__(self) -> None:
        if self.count < 0 or not 0 <= self.hard_ratio <= 1 or self.hard_min_idx < 0:
            raise ValueError(
                "negatives need count >= 0, hard_ratio in [0, 1] and hard_min_idx >= 0"
            )

    def __call__(
        self,
        record: PassageRecord,
        rng: np.random.Generator,
        others: Sequence[str] = (),
        answers: Collection[str] = (),
    ) -> list[str]:
        """Negatives of a record: random ones, then hard ones.

        Args:
            record: of the question.
            rng: source of randomness.
            others: different passages that fill up; those of the record itself are passed over.
            answers: passages that answer the question, besides those of the record.
        """
        right = {*record.positives, *answers}
        pool = _wrong(record.hard_negatives[self.hard_min_idx :], right)
        negatives = _wrong(record.negatives, right)
        hard = min(int((rng.random(self.count) < self.hard_ratio).sum()), len(pool))
        missing = self.count - hard
        order = rng.permutation(len(negatives))
        filling = _places(rng, len(others)) if missing > len(negatives) else None
        last = [pool[int(i)] for i in rng.permutation(len(pool))[:hard]]
        taken = right | {*last}
        random = [text for i in order if (text := negatives[int(i)]) not in taken]
        if len(random) < missing:  # also where a negative is one of the hard ones
            filling = _places(rng, len(others)) if filling is None else filling
            taken |= {*random}
            spare = (text for i in filling if (text := others[int(i)]) not in taken)
            random += islice(spare, missing - len(random))
        return random[:missing] + last


def _places(rng: np.random.Generator, count: int) -> Iterable[int]:
    """Numbers below `count` in random order, each once."""
    # A permutation of half a million costs 10 ms, for one negative. The results of the bundled
    # sets, which are smaller, hang on its draws, so they keep it.
    return rng.permutation(count) if count <= MAX_PERMUTED else _drawn(rng, count)


def _drawn(rng: np.random.Generator, count: int) -> Iterator[int]:
    rows: set[int] = set()
    while len(rows) < MAX_PERMUTED // 10:
        place = int(rng.integers(count))
        if place not in rows:
            rows.add(place)
            yield place
    yield from (int(i) for i in rng.permutation(count) if int(i) not in rows)


def _wrong(texts: Sequence[str], right: Collection[str]) -> list[str]:
    """Different texts, in their order, without the right ones."""
    return [text for text in dict.fromkeys(texts) if text not in right]


class PassageBatch(TypedDict):
    """B questions with n negatives each."""

    query: TextInputs  # B texts
    key: TextInputs  # B positives, then B * n negatives, those of a question together
    ids: Tensor  # (B,) int64, records


@dataclass
class PassageBatches(Dataset[PassageBatch]):
    """Map-style training set of records that returns whole batches.

    Positive and negatives of an access depend on (seed, epoch, index). Passages that answer a
    question by another record of it are none of its negatives.

    Attributes:
        records: the questions.
        draw: of the negatives.
        tokenize: B texts -> ids and mask.
        prepare: changes every text before it is tokenised.
        seed: the experiment's seed.
    """

    records: Sequence[PassageRecord]
    draw: NegativeDraw
    tokenize: Callable[[Sequence[str]], Mapping[str, Tensor]]
    prepare: Callable[[str], str] = str
    seed: int = 0
    others: list[str] = field(init=False)
    answers: dict[str, set[str]] = field(init=False)  # of questions with several records

    def __post_init__(self) -> None:
        if not self.records:
            raise UserError("there is no question to train on")
        self.others = list(dict.fromkeys(p for r in self.records for p in r.positives))
        asked = Counter(record.question for record in self.records)
        self.answers = {question: set() for question, count in asked.items() if count > 1}
        for record in self.records:
            if record.question in self.answers:
                self.answers[record.question].update(record.positives)
        self._check()

    def _check(self) -> None:
        others, count = {*self.others}, self.draw.count
        for record in self.records:
            right = {*record.positives, *self.answers.get(record.question, ())}
            room = len(others) - len(right)  # passages of other questions
            negatives = {*record.negatives}
            if self.draw.hard_ratio == 1:  # else a draw may have no hard one
                negatives.update(record.hard_negatives[self.draw.hard_min_idx :])
            if room + len(negatives - others) < count:
                raise UserError(
                    f"question {record.question[:60]!r} has too few negatives, and the other "
                    f"questions too few passages: ask for fewer than {count}"
                )

    def __len__(self) -> int:
        return len(self.records)

    def example(self, index: int, epoch: int) -> tuple[str, str, list[str]]:
        """Question, one positive and the negatives of an access."""
        record = self.records[index]
        rng = sample_rng(self.seed, epoch, index, _DRAW_STREAM)
        positive = record.positives[int(rng.integers(len(record.positives)))]
        answers = self.answers.get(record.question, ())
        return record.question, positive, self.draw(record, rng, self.others, answers)

    def __getitem__(self, keys: Sequence[Key]) -> PassageBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        rows = [self.example(index, epoch) for index, epoch in keys]
        passages = [p for _, p, _ in rows] + [n for _, _, wrong in rows for n in wrong]
        return {
            "query": self._inputs([question for question, _, _ in rows]),
            "key": self._inputs(passages),
            "ids": torch.tensor([index for index, _ in keys]),
        }

    def _inputs(self, texts: Sequence[str]) -> TextInputs:
        inputs = self.tokenize([self.prepare(text) for text in texts])
        return {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}


def read_passages(path: str | Path) -> list[PassageRecord]:
    """Records of a ``.json`` list or a ``.jsonl`` file; those without a positive are left out.

    Raises:
        UserError: a missing file, one of another layout, or no record with a positive.
    """
    records = [
        PassageRecord(
            row["question"], row["positive_ctxs"], row["negative_ctxs"], row["hard_negative_ctxs"]
        )
        for row in read_dpr(path)
        if row["positive_ctxs"]
    ]
    if not records:
        raise UserError(f"{path} has no question with a positive passage")
    return records


def write_passages(path: str | Path, records: Sequence[PassageRecord]) -> None:
    """Write records as `read_passages` reads them, one JSON object per line."""

    def contexts(texts: Sequence[str]) -> list[dict[str, Any]]:
        return [{"title": "", "text": text} for text in texts]

    rows = [
        {
            "question": r.question,
            "positive_ctxs": contexts(r.positives),
            "negative_ctxs": contexts(r.negatives),
            "hard_negative_ctxs": contexts(r.hard_negatives),
        }
        for r in records
    ]
    write_jsonl(path, rows)
