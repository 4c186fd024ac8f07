"""Configs, golden inputs and small rankers for the tests of PROP and B-PROP."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from projects.b_prop.config import Config, WordsConfig
from projects.b_prop.corpus_statistics import CorpusStatistics
from projects.b_prop.data import PairBatches, kept_documents, training_documents
from projects.b_prop.documents import Collection, settings_of
from projects.b_prop.module import BProp
from projects.b_prop.stages import build_ranker, lm_head
from projects.b_prop.words import WordSampler
from tests.configs import configs_of
from tests.unit.losses.golden import fill

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/b_prop.json").read_text(encoding="utf-8"))
WORDS = GOLDEN["inputs"]["words"]
QUICK = ["eval.sets=[]", "finetune.steps=0", "eval.query_counts=[]"]

config = configs_of(Config, "b_prop")


def module_of(*overrides: str, finetune: bool = False) -> BProp:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    ranker = build_ranker(cfg)
    head = None if finetune else lm_head(cfg, ranker)
    return BProp(cfg, ranker, head, finetune=finetune).train()


def pairs_of(*overrides: str) -> PairBatches:
    """Training pairs of a config."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    ranker = build_ranker(cfg)
    documents, collection = training_documents(cfg, ranker)
    sampler = WordSampler(cfg.words, collection)
    return PairBatches(documents, kept_documents(documents, cfg), sampler, ranker, cfg)


def golden_attention(document: int) -> dict[str, float]:
    """Raw attention of the golden documents."""
    values = fill((16,), 0.3 + document).detach().abs().numpy() * 0.05
    return {w: float(values[k]) for k, w in enumerate(WORDS) if (k + document) % 8}


def counts_collection(counts: list[dict[str, int]], words: WordsConfig) -> Collection:
    """A collection of counts alone."""
    return Collection(settings_of(words), CorpusStatistics.of(counts))


def row_of(counts: dict[str, int], **further: object) -> dict:
    """A document of counted words."""
    return {
        "id": "d",
        "text": " ".join(counts),
        "words": list(counts),
        "counts": list(counts.values()),
        "pieces": 99,
        **further,
    }


def batch_of(rows: int = 8, seed: int = 0) -> dict:
    """A batch of `rows` pairs of the smoke config's documents."""
    data = pairs_of()
    order = np.random.default_rng(seed).permutation(len(data))[:rows]
    return dict(data[[(int(i), 0) for i in order]])


def share_of(whole: dict, own: slice) -> dict:
    """Some pairs of a batch, their members together."""
    twice = slice(2 * (own.start or 0), None if own.stop is None else 2 * own.stop)
    return {
        "pairs": {k: v[twice] for k, v in whole["pairs"].items()},
        "labels": whole["labels"][twice],
        "ids": whole["ids"][own],
    }


def scores_of(scale: float) -> Tensor:
    """Golden scores of four pairs."""
    return scale * fill((8,), 0.4)
