"""Training sentences of ESimCSE in two views: as they are, and with some (sub-)words repeated."""

from typing import Literal

from common.config import UserError
from common.data.text.repeated_views import repeated_views, repetition
from common.data.text.sets import load_sentences
from common.data.text.synthetic import synthetic_sentences
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.data import text_rows
from projects.esimcse.config import Config

HELD_OUT_SEED = 1  # the probe's sentences are the same for all seeds of an experiment


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
    """Batches of both views, see `common.data.text.repeated_views`.

    Raises:
        UserError: see `training_rows`; or the second view would not fit the encoder.
    """
    return repeated_views(
        training_rows(cfg),
        encoder.tokenizer,
        repetition(cfg.repetition),
        max_length=cfg.data.max_length,
        seed=cfg.seed,
        views=2,
        limit=encoder.max_length,
    )


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
    sentences: list[str] = []
    for part in data.parts:
        sentences += load_sentences(data.root, split=split, sources=[part], limit=share, seed=seed)
    return sentences
