"""Configs, encoders, golden inputs and batches for the tests of Mirror-BERT."""

import json
from pathlib import Path

import torch
from torch import Tensor

from common.families.sentences.module import build_encoder
from projects.mirror_bert.config import Config
from projects.mirror_bert.data import mirror_views
from projects.mirror_bert.module import MirrorBERT
from tests.configs import configs_of
from tests.unit.losses.golden import sentences

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/mirror_bert.json").read_text(encoding="utf-8")
)
NO_NOISE = ("model.dropout=0.0", "model.drop_head=0.0")
PADDED = ("model.pooling=avg_all", "model.max_length=32")

config = configs_of(Config, "mirror_bert")


def module_of(cfg: Config) -> MirrorBERT:
    """Module with seeded weights."""
    torch.manual_seed(0)
    return MirrorBERT(cfg, build_encoder(cfg.model))


def batch(cfg: Config, module: MirrorBERT, rows: int = 8) -> dict[str, Tensor]:
    """The first strings of the training set, first epoch."""
    views = mirror_views(cfg, module.encoder.tokenizer)
    return dict(views[[(index, 0) for index in range(rows)]])


def golden_views(case: dict) -> tuple[Tensor, Tensor]:
    """The two views of a golden case (float64 leaves that want gradients)."""
    first, second = sentences(case["B"], 2, case["d"]).detach().unbind(1)
    return first.clone().requires_grad_(), second.clone().requires_grad_()
