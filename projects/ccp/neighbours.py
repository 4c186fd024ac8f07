"""Neighbouring sentences of documents in several languages, and batches of one language each.

A document is its sentences in reading order. Files of a language are ``.jsonl`` with one
``{"sentences": [...]}`` a line.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lines import LineFile
from common.data.mixture import TaskMixture, source_probabilities
from common.data.padding import TextInputs
from common.data.samplers import Key, sample_rng
from common.data.text.masking import IGNORED, mask_tokens

_PAIR_STREAM, _MASK_STREAM = 2**31 + 71, 2**31 + 72
MOST_PAIRS = 2**23  # of an epoch: its order is held in memory, 16 bytes a pair, by every process

Documents = Sequence[Sequence[str]]


class DocumentFile(Sequence[list[str]]):
    """Documents of a ``.jsonl`` file by index, memory-mapped, without blank sentences.

    Args:
        path: the file.

    Raises:
        UserError: no such file, or an empty one; on access, a line that is no document of at least
            two sentences.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.lines = Path(path), LineFile(path)
        if not len(self.lines):
            raise UserError(f"{path} has no document")

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int):
            raise TypeError("documents are read one by one")
        try:
            sentences = json.loads(self.lines[index])["sentences"]
            right = isinstance(sentences, list) and all(isinstance(s, str) for s in sentences)
            sentences = [s for s in sentences if s.strip()] if right else []
            right = len(sentences) > 1
        except (json.JSONDecodeError, KeyError, TypeError):
            right = False
        if not right:
            raise UserError(
                f'{self.path}, line {index + 1}: expected {{"sentences": [...]}} with two or more '
                "texts; TASK=split writes such files"
            )
        return sentences


def in_blocks(sentences: Sequence[str], size: int) -> list[list[str]]:
    """Runs of at most `size` consecutive sentences; a rest of one joins the run before it.

    >>> in_blocks(["a", "b", "c", "d", "e"], 2)
    [['a', 'b'], ['c', 'd', 'e']]
    """
    blocks = [list(sentences[i : i + size]) for i in range(0, len(sentences), size)]
    if len(blocks) > 1 and len(blocks[-1]) == 1:
        blocks[-2:] = [blocks[-2] + blocks[-1]]
    return [block for block in blocks if len(block) > 1]


def documents_of_lines(lines: Iterable[str]) -> Iterator[list[str]]:
    """Documents of text with one sentence per line and a blank line between documents.

    >>> list(documents_of_lines(["a", "b", "", " ", "c"]))
    [['a', 'b'], ['c']]
    """
    document: list[str] = []
    for line in lines:
        if text := line.strip():
            document.append(text)
        elif document:
            yield document
            document = []
    if document:
        yield document


def draw_context(rng: np.random.Generator, center: int, length: int, window: int) -> int:
    """A sentence near another one: uniform over distances of 1 to `window` within the document.

    Source: Wu et al. 2022, arXiv 2206.03281 (context of a sentence: 0 < |i - c| <= w).

    Args:
        rng: source of randomness.
        center: index of the sentence c.
        length: sentences of the document, >= 2.
        window: w >= 1.

    Raises:
        ValueError: a document of one sentence.
    """
    first, last = max(0, center - window), min(length - 1, center + window)
    if last == first:
        raise ValueError("a document of one sentence has no context")
    place = first + int(rng.integers(last - first))  # one fewer: the centre itself is passed over
    return place + (place >= center)


def language_mixture(
    sizes: Sequence[int], exponent: float, seed: int, global_batch_size: int
) -> TaskMixture:
    """Batches of one language each; an epoch has ``n_l ** exponent`` shares of the documents.

    An epoch has as many pairs as there are documents, at most `MOST_PAIRS`; the next one goes on
    where it ends.

    Args:
        sizes: documents of each language.
        exponent: 0 is uniform over languages, 1 by their size.
        seed: the experiment's.
        global_batch_size: pairs of a batch over all ranks; the least share of a language.

    >>> language_mixture([100, 100_000], 0.3, 0, 10).samples
    [11190, 88900]
    """
    shares = source_probabilities(sizes, exponent)
    total = min(sum(sizes), MOST_PAIRS)
    samples = [max(global_batch_size, round(share * total)) for share in shares]
    return TaskMixture(sizes, samples, seed, global_batch_size, homogeneous=True)


@dataclass(frozen=True)
class LanguageText:
    """Documents of one language, and how their texts become ids.

    Attributes:
        name: of the language.
        documents: of two or more sentences each.
        tokenize: B texts -> ids and mask, right-padded.
    """

    name: str
    documents: Documents
    tokenize: Callable[[Sequence[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class Masking:
    """Masked-language-model rows alongside the pairs.

    Attributes:
        every: one of how many centre sentences has a masked copy.
        probability: share of its pieces that are chosen.
        mask_id: id of the mask token.
        vocab_size: random pieces are drawn below it.
        special: ids that are never chosen.
    """

    every: int
    probability: float
    mask_id: int
    vocab_size: int
    special: Sequence[int]


class ContextBatch(TypedDict):
    """B pairs of neighbouring sentences of one language."""

    inputs: TextInputs  # 2 B texts: B centres, then their contexts
    language: Tensor  # (B,) int64, equal
    ids: Tensor  # (B,) int64, places in the epoch
    masked: NotRequired[TextInputs]  # M masked centres
    labels: NotRequired[Tensor]  # (M, L) int64, -100 where nothing is predicted


class ContextPairs(Dataset[ContextBatch]):
    """Map-style training set that returns whole batches of one language.

    The sentence and its context are functions of (seed, epoch, place), so any number of ranks and
    loader processes sees the same pairs.

    Args:
        languages: at least one.
        window: w, see `draw_context`.
        mixture: which document of which language stands where, see `language_mixture`.
        seed: the experiment's.
        masking: None: no masked rows.
    """

    def __init__(
        self,
        languages: Sequence[LanguageText],
        mixture: TaskMixture,
        *,
        window: int = 5,
        seed: int = 0,
        masking: Masking | None = None,
    ) -> None:
        self.languages, self.mixture = list(languages), mixture
        self.window, self.seed, self.masking = window, seed, masking

    def __len__(self) -> int:
        return len(self.mixture)

    def pair(self, place: int, epoch: int) -> tuple[int, str, str]:
        """Language, centre and context of an access."""
        language, row = (int(x) for x in self.mixture.order(epoch)[place])
        document = self.languages[language].documents[row]
        rng = sample_rng(self.seed, epoch, place, _PAIR_STREAM)
        center = int(rng.integers(len(document)))
        context = draw_context(rng, center, len(document), self.window)
        return language, document[center], document[context]

    def __getitem__(self, keys: Sequence[Key]) -> ContextBatch:
        """Batch of the given ``(place, epoch)`` keys.

        Raises:
            UserError: they are of several languages.
        """
        rows = [self.pair(place, epoch) for place, epoch in keys]
        language = one_language([name for name, _, _ in rows])
        texts = [center for _, center, _ in rows] + [context for _, _, context in rows]
        inputs = self.languages[language].tokenize(texts)
        batch: ContextBatch = {
            "inputs": {
                "input_ids": inputs["input_ids"],
                "attention_mask": inputs["attention_mask"],
            },
            "language": torch.full((len(rows),), language),
            "ids": torch.tensor([place for place, _ in keys]),
        }
        if self.masking is not None:
            batch["masked"], batch["labels"] = self._masked(keys, batch["inputs"], self.masking)
        return batch

    def _masked(
        self, keys: Sequence[Key], inputs: TextInputs, options: Masking
    ) -> tuple[TextInputs, Tensor]:
        """Masked copies of the centres at every n-th place, whichever rank has them."""
        chosen = [i for i, (place, _) in enumerate(keys) if place % options.every == 0]
        ids, mask = inputs["input_ids"][chosen].clone(), inputs["attention_mask"][chosen]
        labels = torch.full_like(ids, IGNORED)
        for line, label, size, i in zip(ids, labels, mask.sum(1).tolist(), chosen, strict=True):
            place, epoch = keys[i]
            plain = line[:size].numpy()
            new, targets = mask_tokens(
                plain,
                np.isin(plain, options.special),
                sample_rng(self.seed, epoch, place, _MASK_STREAM),
                mask_id=options.mask_id,
                vocab_size=options.vocab_size,
                probability=options.probability,
            )
            line[:size], label[:size] = torch.from_numpy(new), torch.from_numpy(targets)
        return {"input_ids": ids, "attention_mask": mask}, labels


def one_language(languages: Sequence[int]) -> int:
    """The language of a batch.

    Raises:
        UserError: there are several, which would make language identity the answer.
    """
    if len(set(languages)) != 1:
        raise UserError(f"a batch contains sentences of one language, got {sorted(set(languages))}")
    return languages[0]
