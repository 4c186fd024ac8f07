"""Training sentences of ESimCSE in two views: as they are, and with some (sub-)words repeated."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.config import UserError
from common.data import Repetition
from common.data.synthetic import synthetic_sentences
from common.data.text_sets import load_sentences
from common.data.text_views import TextViews, special_tokens
from common.encoders.sentence import SentenceEncoder
from common.engine.sentences import text_rows
from projects.esimcse.config import Config

HELD_OUT_SEED = 1  # the probe's sentences are the same for all seeds of an experiment


@dataclass(frozen=True)
class SubwordViews:
    """Token augmentation: both views are cut alike, then sub-words of the second are repeated.

    Attributes:
        repetition: draws what is repeated.
        room: tokens of the first view at most, without special tokens.
    """

    repetition: Repetition
    room: int

    def __call__(self, tokens: list[int], rng: np.random.Generator, view: int) -> list[int]:
        """Ids of a view (0 or 1), without special tokens."""
        tokens = tokens[: self.room]
        return self.repetition(tokens, rng) if view == 1 else tokens

    @property
    def extra(self) -> int:
        """Tokens by which the second view may be longer."""
        return max(0, self.repetition.bound(self.room) - 1)


@dataclass(frozen=True)
class WordViews:
    """Text augmentation: words of the second view are repeated.

    Attributes:
        repetition: draws what is repeated.
    """

    repetition: Repetition

    def __call__(self, text: str, rng: np.random.Generator, view: int) -> str:
        """Text of a view (0 or 1)."""
        return " ".join(self.repetition(text.split(" "), rng)) if view == 1 else text


def training_rows(cfg: Config) -> list[tuple[str, ...]]:
    """The sentences, one column.

    Raises:
        UserError: missing files, too few sentences, or a file of more than one column.
    """
    data = cfg.data
    if data.equal_parts:
        assert data.limit is not None  # the config says so
        return [(text,) for text in _shares(cfg, "train", data.limit, cfg.seed)]
    rows = text_rows(data, cfg.seed)
    if len(rows[0]) != 1:
        raise UserError(f"{data.file} has {len(rows[0])} columns; ESimCSE needs one sentence a row")
    return rows


def training_views(cfg: Config, encoder: SentenceEncoder) -> TextViews:
    """Batches of both views.

    Repeated sub-words come on top of ``data.max_length``; repeated words count towards it.

    Raises:
        UserError: see `training_rows`; or the second view would not fit the encoder.
    """
    rows, tokenizer, choice = training_rows(cfg), encoder.tokenizer, cfg.repetition
    length = cfg.data.max_length
    if choice.level == "none":
        return TextViews(rows, tokenizer, max_length=length, seed=cfg.seed, views=2)
    repetition = Repetition(choice.rate, choice.level, choice.rule, choice.cap)
    if choice.level == "word":
        return TextViews(
            rows, tokenizer, max_length=length, seed=cfg.seed, views=2,
            augment_text=WordViews(repetition),
        )  # fmt: skip
    around = sum(len(part) for part in special_tokens(tokenizer))
    augment = SubwordViews(repetition, length - around)
    longest = length + augment.extra
    if encoder.max_length is not None and longest > encoder.max_length:
        raise UserError(
            f"repetition lengthens a text of data.max_length={length} to {longest} tokens, the "
            f"encoder reads {encoder.max_length}: lower data.max_length or repetition.rate"
        )
    return TextViews(rows, tokenizer, max_length=longest, seed=cfg.seed, views=2, augment=augment)


def held_out_sentences(cfg: Config) -> list[str]:
    """Sentences of the length probe, never trained on: of the bundled parts that the config names.

    Raises:
        UserError: fewer sentences than ``length.sentences``.
    """
    count = cfg.length.sentences
    if cfg.data.source == "synthetic":
        return synthetic_sentences(count, seed=cfg.seed + 1)
    if cfg.data.equal_parts:
        return _shares(cfg, "test", count, HELD_OUT_SEED)
    parts = cfg.data.parts or None
    return load_sentences(
        cfg.data.root, split="test", sources=parts, limit=count, seed=HELD_OUT_SEED
    )


def _shares(cfg: Config, split: Literal["train", "test"], count: int, seed: int) -> list[str]:
    """As many sentences of each part, rounded down."""
    data = cfg.data
    share = count // len(data.parts)
    found: list[str] = []
    for part in data.parts:
        found += load_sentences(data.root, split=split, sources=[part], limit=share, seed=seed)
    return found
