"""Questions with passages: the training data of a retriever's fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.retrieval.passages import (
    NegativeDraw,
    PassageBatches,
    PassageRecord,
    read_passages,
)
from common.data.text.normalize import text_preparation
from common.encoders.text.sentence import SentenceEncoder
from common.families.retrieval.evaluation import load_set
from common.families.retrieval.finetuning_options import FinetuneConfig
from common.families.retrieval.protocol import RetrievalExperimentConfig


def questions(cfg: RetrievalExperimentConfig, file: str | None) -> list[PassageRecord]:
    """Questions of a file, or those that the evaluation leaves out, with their passages.

    Args:
        cfg: the project's config.
        file: of DPR's layout, as named or below the data root; None: the held-out queries of
            ``eval.beir``.

    Raises:
        UserError: a missing or broken file or set.
    """
    if file is not None:
        path = Path(file).expanduser()
        return read_passages(path if path.is_file() else data_root(cfg.data.root) / path)
    rows = []
    for place in cfg.eval.beir:
        data = load_set(cfg, place, held_out=True)
        for query in data.qrels:
            right = tuple(data.corpus[d] for d in data.relevant(query))
            if right:
                rows.append(PassageRecord(data.queries[query], right))
    if cfg.eval.beir and not rows:
        raise UserError(
            f"no held-out queries in eval.beir={list(cfg.eval.beir)} for the fine-tuning: type "
            "eval.held_out_queries=<number>, which a config sets for bundled sets only, or give "
            "finetune.file"
        )
    return rows


def passage_batches(
    records: Sequence[PassageRecord], options: FinetuneConfig, encoder: SentenceEncoder, seed: int
) -> PassageBatches:
    """Batches of questions with positives and negatives.

    Args:
        records: the questions.
        options: section of the config.
        encoder: for its tokenizer and the number of tokens that it reads.
        seed: the experiment's.

    Raises:
        UserError: no questions, or too few passages for the negatives.
    """
    draw = NegativeDraw(
        options.num_negatives, options.negative_hard_ratio, options.negative_hard_min_idx
    )
    limit = min(options.max_length, encoder.max_length or options.max_length)

    def tokenize(texts: Any) -> Any:
        return encoder.tokenizer(
            list(texts), truncation=True, max_length=limit, padding=True, return_tensors="pt"
        )

    prepare = text_preparation(options.normalize_text, False)
    return PassageBatches(records, draw, tokenize, prepare, seed)


def finetuning_data(
    cfg: RetrievalExperimentConfig,
    options: FinetuneConfig,
    encoder: SentenceEncoder,
    records: Sequence[PassageRecord] | None = None,
) -> ContrastiveData:
    """Training data of the fine-tuning.

    Args:
        cfg: the project's config.
        options: its section of the fine-tuning.
        encoder: what is tuned.
        records: None: `questions` of the section's file.

    Raises:
        UserError: see `questions` and `passage_batches`.
    """
    records = questions(cfg, options.file) if records is None else records
    train = passage_batches(records, options, encoder, cfg.seed)
    return ContrastiveData(
        train, batch_size=options.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers
    )
