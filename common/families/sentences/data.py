"""Training rows, STS sets and the data module; what a config needs on disk."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.lookup import data_root
from common.data.module import ContrastiveData
from common.data.samplers import drawn_rows
from common.data.text.options import is_pair_file
from common.data.text.sets import (
    StsSet,
    load_nli_triplets,
    load_scored_pairs,
    load_sentences,
    load_sts,
    load_text_rows,
)
from common.data.text.synthetic import synthetic_sentence_pairs, synthetic_sentences
from common.data.text.views import TextViews
from common.engine.experiment import Requirement, bundled_requirement, weights_requirement
from common.families.sentences.config import SentenceData
from common.families.sentences.protocol import SentenceExperimentConfig

SYNTHETIC = 256  # sentences, and pairs, of data.source=synthetic


class StsPairs(Dataset[tuple[str, str, float]]):
    """Pairs of one STS set for validation."""

    def __init__(self, sts: StsSet) -> None:
        self.sts = sts

    def __len__(self) -> int:
        return len(self.sts)

    def __getitem__(self, index: int) -> tuple[str, str, float]:
        return self.sts.first[index], self.sts.second[index], self.sts.scores[index]

    @staticmethod
    def collate(rows: Sequence[tuple[str, str, float]]) -> tuple[list[str], list[str], Tensor]:
        """First sentences, second sentences and scores (B,) float32."""
        first, second, scores = zip(*rows, strict=True)
        return list(first), list(second), torch.tensor(scores, dtype=torch.float32)


def text_path(data: SentenceData) -> Path:
    """The file of data.source=file: as named, or below the data root."""
    return _own_file(str(data.file), data.root)


def _own_file(name: str, root: str | None) -> Path:
    """A file as named, or below the data root."""
    path = Path(name).expanduser()
    return path if path.is_file() else data_root(root) / path


def text_rows(data: SentenceData, seed: int) -> list[tuple[str, ...]]:
    """Training rows of one to three columns.

    Raises:
        UserError: files that are missing or of the wrong shape, or fewer rows than `limit`.
    """
    if data.source == "synthetic":
        return [(text,) for text in synthetic_sentences(data.limit or SYNTHETIC, seed=seed)]
    if data.source == "sentences":
        parts = data.parts or None
        sentences = load_sentences(data.root, sources=parts, limit=data.limit, seed=seed)
        return [(text,) for text in sentences]
    rows: Sequence[tuple[str, ...]] = (
        load_nli_triplets(data.root) if data.source == "nli" else load_text_rows(text_path(data))
    )
    if data.limit is None:
        return list(rows)
    return [rows[i] for i in drawn_rows(len(rows), data.limit, seed, 2**31 + 2, "rows")]


def sts_set(cfg: SentenceExperimentConfig, name: str) -> StsSet:
    """An STS set of the config: a file of scored pairs, or a named one.

    Named sets are synthetic where the training data is.
    """
    if is_pair_file(name):
        return replace(load_scored_pairs(_own_file(name, cfg.data.root)), name=name, subsets=[])
    if cfg.data.source == "synthetic":
        return StsSet(name, *synthetic_sentence_pairs(SYNTHETIC // 4, seed=len(name)))
    return load_sts(cfg.data.root, name)


def first_sts_set(cfg: SentenceExperimentConfig) -> StsSet:
    """The set that mechanisms are measured on, and whose texts a search falls back to.

    Raises:
        UserError: the config names none.
    """
    if not cfg.eval.sets:
        raise UserError("this needs an STS set: give one in eval.sets, such as [stsb-test]")
    return sts_set(cfg, cfg.eval.sets[0])


def sentence_data(cfg: SentenceExperimentConfig, train: TextViews) -> ContrastiveData:
    """Data module of a training set, with the STS development set if the config validates."""
    val: dict[str, Dataset[Any]] = {}
    if cfg.trainer.val_every_n_steps is not None:
        val["dev"] = StsPairs(sts_set(cfg, cfg.eval.dev))
    return ContrastiveData(
        train,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
        num_workers=cfg.data.num_workers,
        val=val,
        eval_batch_size=cfg.eval.batch_size,
        lengths=None if cfg.data.bucket_batches is None else train.lengths,
        bucket_batches=cfg.data.bucket_batches,
    )


def text_requirements(cfg: SentenceExperimentConfig) -> tuple[Requirement, ...]:
    """Weights and data that the config needs."""
    needs = list(weights_requirement(cfg.model.pretrained))
    if cfg.data.source in ("sentences", "nli"):
        folder = "sentences-en" if cfg.data.source == "sentences" else "nli"
        needs.append(bundled_requirement(folder))
    elif cfg.data.source == "file":
        path = text_path(cfg.data)
        needs.append(
            Requirement("data: training texts", str(path), path.exists(), "see the card, Data")
        )
    if cfg.eval.transfer or any(name.startswith("senteval:") for name in cfg.eval.sets):
        path = data_root(cfg.data.root) / "SentEval" / "data" / "downstream"
        hint = "the download script of facebookresearch/SentEval"
        needs.append(Requirement("data: SentEval", str(path), path.exists(), hint))
    for name in filter(is_pair_file, cfg.eval.sets):
        path = _own_file(name, cfg.data.root)
        needs.append(Requirement("data: scored pairs", str(path), path.exists(), "eval.sets"))
    return tuple(needs)
