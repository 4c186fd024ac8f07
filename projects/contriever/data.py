"""Chunks of token streams in two views; questions with passages for the second stage."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.data.lookup import bundled, data_root
from common.data.module import ContrastiveData
from common.data.retrieval.readers import read_dpr
from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.engine.workspace import read_json
from common.evaluation.retrieval.beir import load_titles
from common.evaluation.retrieval.subsets import synthetic_set
from common.families.retrieval.config import DenseModel
from common.families.retrieval.finetuning import passage_batches, questions
from common.families.retrieval.sets import TITLES, set_folder
from projects.contriever.config import Config, ContrieverData
from projects.contriever.noise import Ids, inverse_cloze, random_crop, token_noise
from projects.contriever.normalize import preparation
from projects.contriever.stream import (
    SHARD_SETTINGS,
    ChunkPairs,
    TokenStream,
    TwoViews,
    flat_ids,
    open_shards,
)

BUNDLED = ("retrieval-cisi", "retrieval-npl")  # texts without their titles, which are dev queries
SYNTHETIC_DOCUMENTS = 96


class PretrainingConfig(Protocol):
    """What the pre-training's data read of a config."""

    seed: int

    @property
    def data(self) -> ContrieverData:
        """Token streams and views."""

    @property
    def model(self) -> DenseModel:
        """Encoder."""


def token_streams(cfg: PretrainingConfig, tokenizer: Any) -> dict[str, TokenStream]:
    """The sources of the config.

    Raises:
        UserError: missing files, a source that is shorter than two chunks, or one that was
            tokenised for another vocabulary.
    """
    data = cfg.data
    shards: dict[str, Sequence[NDArray[np.integer]]]
    if data.source == "files":
        folders = {name: source_folder(cfg, path) for name, path in data.sources.items()}
        for name, folder in folders.items():
            abouts = map(read_json, folder.glob(f"*/{SHARD_SETTINGS}"))
            if any(about["vocabulary"] != vocabulary_of(tokenizer) for about in abouts):
                raise UserError(
                    f"data.sources: the shards of '{name}' ({folder}) were written with another "
                    "tokenizer: run TASK=tokenize with the config that you train"
                )
        shards = {
            name: joined(open_shards(folder), data.chunk_length) for name, folder in folders.items()
        }
    elif data.source == "synthetic":
        texts = list(synthetic_set(SYNTHETIC_DOCUMENTS, seed=cfg.seed).corpus.values())
        half = len(texts) // 2
        parts = {"first": texts[:half], "second": texts[half:]}
        shards = {name: [flat_ids(tokenizer, part)] for name, part in parts.items()}
    else:
        read = {name: load_titles(bundled(name, data.root))[1] for name in BUNDLED}
        shards = {
            name: [flat_ids(tokenizer, list(content.values()))] for name, content in read.items()
        }
    return {name: TokenStream(content, data.chunk_length, name) for name, content in shards.items()}


def joined(shards: Sequence[NDArray[np.integer]], length: int) -> list[NDArray[np.integer]]:
    """Shards; those of less than two chunks, which nothing is drawn from, one after the other.

    Args:
        shards: (T,) each, such as one of every small text file.
        length: tokens of a chunk.
    """
    short = [shard for shard in shards if len(shard) < 2 * length]
    long = [shard for shard in shards if len(shard) >= 2 * length]
    return [*long, np.concatenate(short)] if short else long


def vocabulary_of(tokenizer: Any) -> str:
    """Fingerprint of which ids stand for which tokens."""
    rows = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(rows.encode()).hexdigest()[:16]


def source_folder(cfg: PretrainingConfig, path: str) -> Path:
    """Folder of a source: as named, or below the data root."""
    named = Path(path).expanduser()
    return named if named.is_dir() else data_root(cfg.data.root) / named


def two_views(cfg: PretrainingConfig, tokenizer: Any) -> TwoViews:
    """What makes query and key of a chunk, as the config says."""
    data = cfg.data
    noise = token_noise(
        data.noise,
        mask_id=tokenizer.mask_token_id,
        vocab_size=len(tokenizer),
        special=tokenizer.all_special_ids,
    )
    ratios = data.ratio_min, data.ratio_max

    def crops(chunk: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
        first = noise(random_crop(chunk, rng, *ratios), rng)
        return first, noise(random_crop(chunk, rng, *ratios), rng)

    def cloze(chunk: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
        span, context = inverse_cloze(chunk, rng, *ratios, data.cloze_keep)
        return noise(span, rng), noise(context, rng)

    return crops if data.views == "crops" else cloze


def pretraining_data(cfg: PretrainingConfig, encoder: SentenceEncoder) -> ContrastiveData:
    """Batches of chunk pairs."""
    tokenizer = encoder.tokenizer
    longest = cfg.data.chunk_length if cfg.data.views == "inverse_cloze" else 0
    longest = longest or int(cfg.data.chunk_length * cfg.data.ratio_max)
    room = encoder.tower.model.config.max_position_embeddings
    if longest + 2 > room:
        raise UserError(f"views of {longest} tokens do not fit a model of {room} positions")
    train = ChunkPairs(
        token_streams(cfg, tokenizer),
        tokenizer,
        two_views(cfg, tokenizer),
        coefficient=cfg.data.sampling_coefficient,
        seed=cfg.seed,
    )
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
    )


def question_data(cfg: Config, encoder: SentenceEncoder) -> ContrastiveData:
    """Batches of questions with passages, for the fine-tuning.

    Raises:
        UserError: missing or broken files, no questions, or too few passages for the negatives.
    """
    options = cfg.finetune
    if note := left_out(cfg, options.file):
        warnings.warn(note, stacklevel=2)
    plain = replace(options, normalize_text=False)
    train = passage_batches(questions(cfg, options.file), plain, encoder, cfg.seed)
    return ContrastiveData(
        replace(train, prepare=preparation(options.normalize_text)),
        batch_size=options.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
    )


def left_out(cfg: Config, file: str | None) -> str | None:
    """How many questions of a file `questions` passes over, in words; None if none."""
    if file is None:
        return None
    rows = read_dpr(questions_file(cfg, file))
    lost = sum(not row["positive_ctxs"] for row in rows)
    if not lost:
        return None
    return f"{file}: {lost} of {len(rows)} questions have no positive passage and are left out"


def questions_file(cfg: Config, file: str) -> Path:
    """A file of questions: as named, or below the data root."""
    named = Path(file).expanduser()
    return named if named.is_file() else data_root(cfg.data.root) / named


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and training data that the config needs."""
    needs = source_requirements(cfg) if cfg.method.pretrain else []
    if not cfg.method.pretrain:
        needs += weights_requirement(cfg.model.pretrained)
    if cfg.finetune.steps and cfg.finetune.file is not None:
        path = questions_file(cfg, cfg.finetune.file)
        hint = "see the card, Data"
        needs.append(Requirement("data: questions", str(path), path.is_file(), hint))
    for place in cfg.eval.beir:
        part = place.partition("@")[2]
        if part and part != TITLES:
            path = set_folder(place, cfg.data.root) / f"queries.{part}.jsonl"
            hint = "a copy of queries.jsonl, if that holds them: see the card, Data"
            needs.append(Requirement(f"data: queries of {place}", str(path), path.is_file(), hint))
    return needs


def source_requirements(cfg: PretrainingConfig) -> list[Requirement]:
    """Weights and texts of the pre-training."""
    needs = list(weights_requirement(cfg.model.pretrained))
    if cfg.data.source == "bundled":
        needs += [bundled_requirement(name) for name in BUNDLED]
    for name, place in cfg.data.sources.items():
        path = source_folder(cfg, place)
        hint = "folder of token shards: make run PROJECT=contriever TASK=tokenize"
        needs.append(Requirement(f"data: {name}", str(path), path.is_dir(), hint))
    return needs
