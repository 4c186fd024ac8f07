"""Configs, golden inputs and small modules for the tests of CCP."""

import json
from pathlib import Path

import torch
from torch import Tensor

from projects.ccp.config import Config
from projects.ccp.data import pretraining_data
from projects.ccp.finetune import DPR
from projects.ccp.head import PairHead
from projects.ccp.module import CCP
from projects.ccp.stages import prediction_head
from projects.ccp.towers import recipe_of
from tests.configs import configs_of
from tests.unit.losses.golden import fill

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/ccp.json").read_text(encoding="utf-8"))[
    "outputs"
]
PRETRAIN = ["finetune.steps=0", "model.dropout=0.0"]

config = configs_of(Config, "ccp")


def module_of(*overrides: str) -> CCP:
    """A pre-training module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*PRETRAIN, *overrides)
    towers = recipe_of(cfg).build()
    return CCP(cfg, towers, prediction_head(cfg, towers, "random")).train()


def tuned_module(*overrides: str) -> DPR:
    """A fine-tuning module in training mode."""
    torch.manual_seed(0)
    cfg = config("model.dropout=0.0", *overrides)
    return DPR(cfg, recipe_of(cfg).build()).train()


def training_set(*overrides: str):
    """The pre-training set of a config."""
    torch.manual_seed(0)
    cfg = config(*PRETRAIN, *overrides)
    return pretraining_data(cfg, recipe_of(cfg).build()).train_set


def golden_head() -> PairHead:
    """The head of the golden values ``ccp_loss``."""
    head = PairHead(6, 8, 4, last_norm=False, bias=True, eps=1e-5).double().train()
    norm = head.first_norm
    with torch.no_grad():
        head.first.weight.copy_(0.5 * fill((6, 8), 0.1).T)
        head.first.bias.copy_(0.1 * fill((8,), 0.2))
        norm.weight.copy_(1 + 0.1 * fill((8,), 0.3))
        norm.bias.copy_(0.1 * fill((8,), 0.4))
        head.second.weight.copy_(0.5 * fill((8, 4), 0.5).T)
        head.second.bias.copy_(0.1 * fill((4,), 0.6))
        norm.running_mean.copy_(0.1 * fill((8,), 0.8))
        norm.running_var.copy_(1 + 0.5 * fill((8,), 0.9).abs())
    return head


def rows_of(batch: dict, own: slice, pairs: int) -> dict:
    """Some pairs of a batch, with their masked rows (one in four)."""
    inputs = {
        k: torch.cat([half[own] for half in v.split(pairs)]) for k, v in batch["inputs"].items()
    }
    actual = {"inputs": inputs, "language": batch["language"][own], "ids": batch["ids"][own]}
    if "masked" in batch:
        chosen = (batch["ids"] % 4 == 0).nonzero()[:, 0]
        mine = torch.isin(chosen, torch.arange(pairs)[own])
        actual |= {
            "masked": {k: v[mine] for k, v in batch["masked"].items()},
            "labels": batch["labels"][mine],
        }
    return actual


def pairs_of(rows: int, seed: int = 0, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Random states of centres and contexts in float64."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)
    return first, second
