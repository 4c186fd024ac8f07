"""The encoder of all languages, its two towers after fine-tuning, and views of it by language."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.encoders.pretrained import resolve_pretrained
from common.encoders.text.sentence import SentenceEncoder
from common.families.retrieval.dense import build_dense, dense_recipe, planned_dense
from common.families.retrieval.encoder import EncoderRecipe
from projects.ccp.config import SIMULATED, Config

QUESTION = "question"  # folder of the second tower in an export


class Towers(nn.Module):
    """One encoder for both sides, or two that began as one.

    Attributes:
        passage: of sentences and passages.
        own_question: of questions; None: `passage` serves both.
    """

    def __init__(self, passage: SentenceEncoder, question: SentenceEncoder | None = None) -> None:
        super().__init__()
        self.passage: SentenceEncoder = passage
        self.own_question: SentenceEncoder | None = question

    @property
    def question(self) -> SentenceEncoder:
        """What encodes questions."""
        return self.passage if self.own_question is None else self.own_question

    def split(self) -> None:
        """Give the questions a copy, unless they have one."""
        if self.own_question is None:
            self.own_question = copy.deepcopy(self.passage)


class PermutedTokenizer:
    """Tokenizer of the simulated language: each piece has one of its own, special ones stay.

    Piece i becomes V + pi(i), with a fixed permutation pi, so no piece, sign or digit is common.

    Args:
        base: tokenizer of V pieces.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        generator = torch.Generator().manual_seed(0)
        table = len(base) + torch.randperm(len(base), generator=generator)
        special = torch.tensor(base.all_special_ids)
        table[special] = special
        self.table: list[int] = table.tolist()

    def __getattr__(self, name: str) -> Any:
        if "base" not in self.__dict__:  # while a copy is made, also in a loader process
            raise AttributeError(name)
        return getattr(self.base, name)

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, list[list[int]]]:
        """Ids of texts of the base language, in pieces of the simulated one."""
        rows = self.base(texts, **options)["input_ids"]
        return {"input_ids": [[self.table[i] for i in row] for row in rows]}


def language_view(
    encoder: SentenceEncoder, language: str, max_length: int | None = None
) -> SentenceEncoder:
    """The same network, reading texts as those of a language.

    Args:
        encoder: of all languages.
        language: `SIMULATED`, or any other, whose texts are read as they are.
        max_length: tokens of a text; None: the encoder's.

    Raises:
        UserError: more tokens than the model reads.
    """
    tokenizer = encoder.tokenizer
    if language == SIMULATED:
        tokenizer = PermutedTokenizer(tokenizer)
    limit = encoder.max_length if max_length is None else max_length
    return SentenceEncoder(encoder.tower, tokenizer, max_length=limit, normalize=encoder.normalize)


def stand_in_needed(pretrained: str) -> bool:
    """Whether weights are not on this machine."""
    return pretrained != "random" and not resolve_pretrained(pretrained, require=False).present


def recipe_of(cfg: Config) -> EncoderRecipe[Towers]:
    """The project's encoder: state of the first token, dot products (cosines if normalised).

    An export is a folder of sentence-transformers; a second tower is one below it, ``question``.
    """
    unit = cfg.model.normalize
    base = dense_recipe(cfg.model, cfg.eval, norm_query=unit, norm_document=unit)

    def prepared(encoder: SentenceEncoder) -> Towers:
        """With the second tower of a fine-tuned export that the training continues from."""
        encoder.length_groups, encoder.normalize = cfg.model.length_groups, unit
        if cfg.simulated and cfg.model.pretrained == "random":
            size = 2 * len(encoder.tokenizer)
            encoder.tower.model.resize_token_embeddings(size, mean_resizing=False)
        second = Path(cfg.model.pretrained).expanduser() / QUESTION
        if not second.is_dir():
            return Towers(encoder)
        question = build_dense(replace(cfg.model, pretrained=str(second)))
        question.normalize = unit
        return Towers(encoder, question)

    def built() -> Towers:
        towers = prepared(base.build())
        for encoder in {towers.passage, towers.question} if cfg.model.grad_checkpointing else ():
            encoder.tower.set_grad_checkpointing()
        return towers

    def planned() -> SentenceEncoder:
        model = cfg.model
        architecture = model.architecture if stand_in_needed(model.pretrained) else None
        return planned_dense(replace(model, pretrained=architecture or model.pretrained))

    def save(towers: Towers, folder: Path) -> None:
        base.save(towers.passage, folder)
        if towers.own_question is not None:
            base.save(towers.own_question, folder / QUESTION)

    def load(folder: Path) -> Towers:
        second = folder / QUESTION
        towers = Towers(base.load(folder), base.load(second) if second.is_dir() else None).eval()
        towers.passage.normalize = towers.question.normalize = unit  # as after the training
        return towers

    return EncoderRecipe(
        built,
        lambda: prepared(planned()),  # kept whole: `make check` shows what recomputation saves
        save,
        load,
        lambda towers, texts: base.queries(towers.question, texts),
        lambda towers, texts: base.documents(towers.passage, texts),
        base.metric,
    )
