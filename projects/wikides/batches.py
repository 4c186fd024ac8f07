"""Batches of both phases, and the data sets that make them."""

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.padding import TextInputs
from common.data.samplers import Key, sample_rng
from common.evaluation.generation.reference import ROUGE_F, rouge, rouge_f
from common.losses.auxiliary.tokens import IGNORED
from projects.wikides.config import Config
from projects.wikides.data import Row

_STREAM = 73


class DescribeBatch(TypedDict):
    """Phase I: B paragraphs with their descriptions."""

    input_ids: Tensor  # (B, S) int64
    attention_mask: Tensor  # (B, S)
    decoder_input_ids: Tensor  # (B, T), start token before the description
    labels: Tensor  # (B, T), -100 at padding
    ids: Tensor  # (B,)


class RankBatch(TypedDict):
    """Phase II: B paragraphs with up to C candidates, in the order of the objective."""

    document: TextInputs  # B texts
    texts: TextInputs  # B descriptions, then the candidates row by row
    mask: Tensor  # (B, C) bool: which candidates there are
    ranks: Tensor  # (B, C) int64: from 0, the best; equally good candidates share one
    rouge: Tensor  # (B, C) ROUGE-1 F1 with the paragraph
    target_rouge: Tensor  # (B,) of the description
    # means of ROUGE-1, -2, -L: candidates with description and paragraph, description with
    # paragraph
    gold_quality: Tensor  # (B, C)
    source_quality: Tensor  # (B, C)
    target_quality: Tensor  # (B,)
    ids: Tensor  # (B,)


def mean_rouge(text: str, reference: str) -> float:
    """Mean F1 of ROUGE-1, -2 and -L."""
    scores = rouge(text, reference)
    return sum(scores[kind][2] for kind in ROUGE_F) / len(ROUGE_F)


def ranked(row: Row, order: str) -> tuple[list[str], list[int]]:
    """Candidates of a row, best first, and their ranks from 0; equally good ones share a rank.

    Args:
        row: a paragraph.
        order: see `WikiDesData.order`.
    """
    texts = list(row.candidates)
    if order == "beam":
        return texts, list(range(len(texts)))
    if order == "source_rouge":
        quality = {c: rouge_f(c, row.source) for c in texts}
    else:
        quality = {c: mean_rouge(c, row.target) for c in texts}
    levels = sorted(set(quality.values()), reverse=True)
    texts.sort(key=lambda c: -quality[c])
    return texts, [levels.index(quality[c]) for c in texts]


class RankRows(Dataset[Any]):
    """Phase II, with all scores that don't depend on the encoder computed once.

    Args:
        cfg: the experiment's config.
        rows: paragraphs.
        tokenize: texts -> ids and mask.
        training: at most `data.num_candidates` of a row, in the order of ``data.order``; for
            ``method.loss=official`` in random order, repeated up to that number. Otherwise all, in
            the order of the file, so that equal scores are no advantage for the best one.
    """

    def __init__(self, cfg: Config, rows: Sequence[Row], tokenize: Any, *, training: bool) -> None:
        self.rows, self.tokenize, self.seed = rows, tokenize, cfg.seed
        self.most = cfg.data.num_candidates if training else None
        self.official = training and cfg.method.loss == "official"
        self.texts: list[list[str]] = []
        self.ranks: list[list[int]] = []
        self.figures: list[list[tuple[float, float, float]]] = []  # of the texts, see `RankBatch`
        self.targets: list[tuple[float, float]] = []
        for row in rows:
            kept = row._replace(candidates=row.candidates[: self.most])
            sort = training and not self.official
            texts, ranks = ranked(kept, cfg.data.order if sort else "beam")
            self.texts.append(texts)
            self.ranks.append(ranks)
            # the criteria are for validation alone
            figures = [(rouge_f(c, row.source), *_criteria(c, row, training)) for c in texts]
            self.figures.append(figures)
            source_rouge = 0.0 if training else mean_rouge(row.target, row.source)
            self.targets.append((rouge_f(row.target, row.source), source_rouge))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Any) -> Any:
        """A batch of keys (index, epoch); of a single index what `collate` takes."""
        return keys if isinstance(keys, int) else self._batch(keys)

    def collate(self, indices: Sequence[int]) -> RankBatch:
        """Batch of a validation loader."""
        return self._batch([(i, 0) for i in indices])

    def places(self, index: int, epoch: int) -> list[int]:
        """Which candidates of a row are shown, in which order."""
        count = len(self.texts[index])
        if not self.official or self.most is None:
            return list(range(count))
        # in place of the order of a set of strings, which differs between processes
        rng = sample_rng(self.seed, epoch, index, _STREAM)
        repeated = rng.integers(0, count, size=self.most - count)
        return [*rng.permutation(count).tolist(), *repeated.tolist()]

    def _batch(self, keys: Sequence[Key]) -> RankBatch:
        indices = [index for index, _ in keys]
        places = [self.places(index, epoch) for index, epoch in keys]
        counts = [len(places_of_row) for places_of_row in places]
        width = max(counts)
        tables = torch.zeros(3, len(keys), width)
        ranks = torch.arange(width).repeat(len(keys), 1)  # of the official loss: the drawn places
        for b, (index, places_of_row) in enumerate(zip(indices, places, strict=True)):
            tables[:, b, : len(places_of_row)] = torch.tensor(
                [self.figures[index][c] for c in places_of_row]
            ).T
            if not self.official:
                ranks[b, : len(places_of_row)] = torch.tensor(
                    [self.ranks[index][c] for c in places_of_row]
                )
        targets = torch.tensor([self.targets[i] for i in indices])
        chosen = [
            self.texts[i][c]
            for i, places_of_row in zip(indices, places, strict=True)
            for c in places_of_row
        ]
        descriptions = [self.rows[i].target for i in indices]
        return {
            "document": self.tokenize([self.rows[i].source for i in indices]),
            "texts": self.tokenize(descriptions + chosen),
            "mask": torch.arange(width) < torch.tensor(counts)[:, None],
            "ranks": ranks,
            "rouge": tables[0],
            "gold_quality": tables[1],
            "source_quality": tables[2],
            "target_rouge": targets[:, 0],
            "target_quality": targets[:, 1],
            "ids": torch.tensor(indices),
        }


class DescribeRows(Dataset[Any]):
    """Phase I.

    Args:
        cfg: the experiment's config.
        rows: paragraphs.
        tokenizer: of the generator.
        start_id: token that the decoder begins with.
    """

    def __init__(self, cfg: Config, rows: Sequence[Row], tokenizer: Any, start_id: int) -> None:
        self.rows, self.tokenizer, self.start_id = rows, tokenizer, start_id
        self.max_source, self.max_target = cfg.generator.max_source, cfg.generator.max_target

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Any) -> Any:
        """As in `RankRows`."""
        return keys if isinstance(keys, int) else self.collate([index for index, _ in keys])

    def collate(self, indices: Sequence[int]) -> DescribeBatch:
        """Batch of rows."""
        rows = [self.rows[i] for i in indices]
        cut = {"padding": True, "truncation": True, "return_tensors": "pt"}
        source = self.tokenizer([r.source for r in rows], max_length=self.max_source, **cut)
        target = self.tokenizer(
            text_target=[r.target for r in rows], max_length=self.max_target, **cut
        )
        ids = target["input_ids"]
        start = torch.full((len(rows), 1), self.start_id)
        return {
            "input_ids": source["input_ids"],
            "attention_mask": source["attention_mask"],
            "decoder_input_ids": torch.cat([start, ids[:, :-1]], dim=1),
            "labels": ids.masked_fill(target["attention_mask"].eq(0), IGNORED),
            "ids": torch.tensor(indices),
        }


def _criteria(text: str, row: Row, training: bool) -> tuple[float, float]:
    """Mean ROUGE of a text with description and paragraph."""
    if training:
        return 0.0, 0.0
    return mean_rouge(text, row.target), mean_rouge(text, row.source)
