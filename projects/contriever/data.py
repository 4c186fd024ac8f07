"""Chunks of token streams in two views; questions with passages for the second stage."""

from pathlib import Path
from typing import Any

import numpy as np

from common.config import UserError
from common.data.lookup import bundled, data_root
from common.data.module import ContrastiveData
from common.data.text.tokens.noise import Ids, inverse_cloze, random_crop, token_noise
from common.data.text.tokens.stream import ChunkPairs, TokenStream, TwoViews, flat_ids, open_shards
from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.evaluation.retrieval.beir import load_titles
from common.evaluation.retrieval.subsets import synthetic_set
from projects.contriever.config import Config

BUNDLED = ("retrieval-cisi", "retrieval-npl")  # texts without their titles, which are dev queries
SYNTHETIC_DOCUMENTS = 96


def token_streams(cfg: Config, tokenizer: Any) -> dict[str, TokenStream]:
    """The sources of the config.

    Raises:
        UserError: missing files, or a source that is shorter than two chunks.
    """
    data = cfg.data
    if data.source == "files":
        shards = {
            name: open_shards(source_folder(cfg, path)) for name, path in data.sources.items()
        }
    elif data.source == "synthetic":
        texts = list(synthetic_set(SYNTHETIC_DOCUMENTS, seed=cfg.seed).corpus.values())
        half = len(texts) // 2
        parts = {"first": texts[:half], "second": texts[half:]}
        shards = {name: [flat_ids(tokenizer, part)] for name, part in parts.items()}
    else:
        read = {name: load_titles(bundled(name, data.root))[1] for name in BUNDLED}
        shards = {name: [flat_ids(tokenizer, list(own.values()))] for name, own in read.items()}
    return {name: TokenStream(own, data.chunk_length, name) for name, own in shards.items()}


def source_folder(cfg: Config, path: str) -> Path:
    """Folder of a source: as named, or below the data root."""
    named = Path(path).expanduser()
    return named if named.is_dir() else data_root(cfg.data.root) / named


def two_views(cfg: Config, tokenizer: Any) -> TwoViews:
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


def pretraining_data(cfg: Config, encoder: SentenceEncoder) -> ContrastiveData:
    """Batches of chunk pairs."""
    tokenizer = encoder.tokenizer
    longest = cfg.data.chunk_length if cfg.data.views == "inverse_cloze" else 0
    longest = longest or int(cfg.data.chunk_length * cfg.data.ratio_max)
    room = encoder.tower.model.config.max_position_embeddings
    if longest + 2 > room:
        raise UserError(f"views of {longest} tokens do not fit a model of {room} positions")
    train = ChunkPairs(
        token_streams(cfg, tokenizer), tokenizer, two_views(cfg, tokenizer),
        coefficient=cfg.data.sampling_coefficient, seed=cfg.seed,
    )  # fmt: skip
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
    )


def requirements(cfg: Config) -> list[Requirement]:
    """Weights and training data that the config needs."""
    found = list(weights_requirement(cfg.model.pretrained))
    if cfg.method.pretrain and cfg.data.source == "bundled":
        found += [bundled_requirement(name) for name in BUNDLED]
    for name, place in cfg.data.sources.items() if cfg.method.pretrain else ():
        path = source_folder(cfg, place)
        hint = "folder of token shards: make run PROJECT=contriever TASK=tokenize"
        found.append(Requirement(f"data: {name}", str(path), path.is_dir(), hint))
    if cfg.finetune.steps and cfg.finetune.file is not None:
        path = data_root(cfg.data.root) / cfg.finetune.file
        hint = "see the card, Data"
        found.append(Requirement("data: questions", str(path), path.is_file(), hint))
    return found
