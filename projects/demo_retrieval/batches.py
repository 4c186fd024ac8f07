"""Batches: inputs with K demonstrations and targets, of several tasks in fixed proportions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.mixture import TaskMixture
from common.data.padding import padded
from common.data.samplers import Key, sample_rng
from projects.demo_retrieval.bank import Demonstrations, uniform
from projects.demo_retrieval.config import DenoiseConfig
from projects.demo_retrieval.objective import IGNORED
from projects.demo_retrieval.sources import Task
from projects.demo_retrieval.template import Encoder, Example

DEMO_STREAM, INFILL_STREAM = 91, 92


class DemoBatch(TypedDict):
    """B inputs with K demonstrations each."""

    input_ids: Tensor  # (B K, S) int64, question-major
    attention_mask: Tensor  # (B K, S) int64
    scores: Tensor  # (B, K) float32
    labels: NotRequired[Tensor]  # (B, T) int64, -100 at padding
    ids: Tensor  # (B,) int64
    examples: NotRequired[list[Example]]  # in evaluation


def collate(
    encoder: Encoder,
    examples: Sequence[Example],
    demonstrations: Sequence[Sequence[Example | None]],
    scores: Tensor,
    ids: Sequence[int],
    *,
    targets: bool = True,
) -> DemoBatch:
    """A batch of examples with their demonstrations.

    Args:
        encoder: makes token ids.
        examples: B.
        demonstrations: K of each.
        scores: (B, K).
        ids: (B,) numbers of the inputs.
        targets: with labels: the first accepted answer.
    """
    rows = [
        encoder.source(e, d)
        for e, shown in zip(examples, demonstrations, strict=True)
        for d in shown
    ]
    sources = padded(rows, int(encoder.tokenizer.pad_token_id))
    batch = DemoBatch(
        input_ids=sources["input_ids"],
        attention_mask=sources["attention_mask"],
        scores=scores,
        ids=torch.tensor(list(ids)),
    )
    if targets:
        batch["labels"] = label_rows([encoder.target(e, e.answers[0]) for e in examples])
    return batch


def label_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Labels (B, T), -100 at padding."""
    targets = padded(rows, 0)
    return targets["input_ids"].masked_fill(targets["attention_mask"] == 0, IGNORED)


class DemoRows(Dataset[Any]):
    """Batches of keys (index, epoch) over a mixture of tasks.

    An epoch holds min(n, cap) examples of every task, or as many of each; see `TaskMixture`.

    Args:
        tasks: with their training examples.
        encoder: makes token ids.
        demonstrations: which K an input gets.
        seed: the experiment's.
        cap: a task counts as at most so many examples.
        uniform_mixing: the same number of each task.
        global_batch_size: over all ranks.

    Raises:
        UserError: every question is longer than the encoder reads or the decoder writes.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        encoder: Encoder,
        demonstrations: Demonstrations,
        *,
        seed: int,
        cap: int,
        uniform_mixing: bool = False,
        global_batch_size: int = 1,
    ) -> None:
        # an example whose question does not fit is left out and counted: questions are never cut
        fitting = [replace(t, train=tuple(e for e in t.train if encoder.fits(e))) for t in tasks]
        self.too_long = {
            t.name: len(t.train) - len(f.train) for t, f in zip(tasks, fitting, strict=True)
        }
        self.tasks = tasks = [t for t in fitting if t.train]
        if not tasks:
            raise UserError("no question fits: raise data.max_source or data.max_target")
        self.encoder, self.demonstrations, self.seed = encoder, demonstrations, seed
        sizes = [len(t.train) for t in tasks]
        counts = [min(n, cap) for n in sizes]
        if uniform_mixing:
            counts = [max(1, sum(counts) // len(counts))] * len(counts)
        self.mixture = TaskMixture(sizes, counts, seed, global_batch_size)
        self.starts = np.cumsum([0, *sizes])
        flat = [e for t in tasks for e in t.train]
        self.hits = demonstrations.fixed(flat, kept=True)

    def __len__(self) -> int:
        return len(self.mixture)

    def counts(self) -> dict[str, int]:
        """Examples of each task in an epoch."""
        return {t.name: n for t, n in zip(self.tasks, self.mixture.samples, strict=True)}

    def chosen(self, index: int, epoch: int) -> tuple[Example, list[Example | None], Tensor]:
        """Example of an access with its demonstrations and their scores (K,)."""
        task, row = (int(i) for i in self.mixture.order(epoch)[index])
        example, source = self.tasks[task].train[row], self.demonstrations
        if self.hits is not None:
            place = int(self.starts[task]) + row
            return example, source.texts(self.hits.positions[place]), self.hits.scores[place]
        places: list[int] = []
        if source.random:  # drawn at every access
            places = source.drawn(example, sample_rng(self.seed, epoch, index, DEMO_STREAM))
        return example, source.texts(places), uniform(1, source.k)[0]

    def __getitem__(self, keys: Sequence[Key]) -> DemoBatch:
        """A batch of keys."""
        examples, demonstrations, scores = zip(*(self.chosen(*key) for key in keys), strict=True)
        return collate(
            self.encoder, examples, demonstrations, torch.stack(scores), [i for i, _ in keys]
        )


class EvalRows(Dataset[Any]):
    """Inputs that are answered, with demonstrations that depend on seed and place alone.

    Args:
        examples: of one task.
        encoder: makes token ids.
        demonstrations: which K an input gets.
        seed: of random ones.
        targets: with labels.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: Encoder,
        demonstrations: Demonstrations,
        seed: int,
        *,
        targets: bool = False,
    ) -> None:
        self.examples, self.encoder, self.targets = list(examples), encoder, targets
        hits = demonstrations.fixed(self.examples)
        count = len(self.examples)
        if hits is not None:
            self.places, self.scores = [list(map(int, row)) for row in hits.positions], hits.scores
        else:
            self.scores = uniform(count, demonstrations.k)
            self.places = [
                (
                    demonstrations.drawn(e, sample_rng(seed, 0, i, DEMO_STREAM + 10))
                    if demonstrations.random
                    else []
                )
                for i, e in enumerate(self.examples)
            ]
        self.shown = [demonstrations.texts(row) for row in self.places]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> int:
        """What `collate` takes."""
        return index

    def collate(self, indices: Sequence[int]) -> DemoBatch:
        """Batch of some inputs, with their examples."""
        examples = [self.examples[i] for i in indices]
        shown = [self.shown[i] for i in indices]
        scores = self.scores[torch.tensor(list(indices))]
        return {
            **collate(self.encoder, examples, shown, scores, indices, targets=self.targets),
            "examples": examples,
        }


class InfillRows(Dataset[Any]):
    """Sentences with spans of words taken out, a mask for each span; the target is the sentence.

    Source: Lewis et al. 2020, "BART", section 2.2 (text infilling), arXiv 1910.13461.

    Args:
        sentences: N texts.
        encoder: makes token ids.
        options: share and length of the spans.
        seed: the experiment's.
    """

    def __init__(
        self, sentences: Sequence[str], encoder: Encoder, options: DenoiseConfig, seed: int
    ) -> None:
        self.sentences, self.encoder, self.options, self.seed = (
            list(sentences),
            encoder,
            options,
            seed,
        )

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, keys: Sequence[Key]) -> DemoBatch:
        """A batch of keys (index, epoch)."""
        encoder, sources, targets = self.encoder, [], []
        for index, epoch in keys:
            words = self.sentences[index].split()
            rng = sample_rng(self.seed, epoch, index, INFILL_STREAM)
            text = infilled(
                words, encoder.mask, self.options.mask_share, self.options.mean_span, rng
            )
            room = (
                min(encoder.max_source, encoder.max_target)
                - len(encoder.prefix)
                - len(encoder.suffix)
            )
            sources.append([*encoder.prefix, *encoder.masked(text)[:room], *encoder.suffix])
            targets.append(
                [*encoder.target_prefix, *encoder.ids(" ".join(words))[:room], encoder.end]
            )
        inputs = padded(sources, int(encoder.tokenizer.pad_token_id))
        return DemoBatch(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            scores=uniform(len(keys), 1),
            labels=label_rows(targets),
            ids=torch.tensor([i for i, _ in keys]),
        )


def infilled(
    words: Sequence[str], mask: str, share: float, mean: float, rng: np.random.Generator
) -> str:
    """Words with spans replaced by one mask each, until a share of them is gone.

    Args:
        words: of a sentence.
        mask: the mask token.
        share: of the words, in (0, 1].
        mean: of the spans' lengths, Poisson; a span of length 0 puts a mask in.
        rng: of this access.

    >>> infilled("a b c".split(), "_", 1.0, 9.0, np.random.default_rng(0))
    '_'
    """
    left, kept = round(share * len(words)), list(words)
    while left > 0:
        length = min(int(rng.poisson(mean)), left, len(kept))
        start = int(rng.integers(0, len(kept) - length + 1))
        kept[start : start + length] = [mask]
        left -= max(length, 1)
    return " ".join(w for i, w in enumerate(kept) if w != mask or i == 0 or kept[i - 1] != mask)
