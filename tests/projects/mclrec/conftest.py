"""Configs, golden inputs, batches and small modules for the tests of MCLRec."""

import json
from pathlib import Path

import torch
from torch import Tensor

from projects.mclrec.config import Config
from projects.mclrec.data import load_sets, training_set
from projects.mclrec.module import MCLRec
from projects.mclrec.network import Augmenter
from projects.mclrec.prefixes import Prefixes, SequenceBatch
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/mclrec.json").read_text(encoding="utf-8"))[
    "outputs"
]
STILL = ("model.hidden_dropout=0", "model.attention_dropout=0")

config = configs_of(Config, "mclrec")


def module_of(*overrides: str, kind: type[MCLRec] = MCLRec) -> MCLRec:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return kind(cfg, load_sets(cfg).log.items).train()


def training(*overrides: str) -> Prefixes:
    """The training set of a config."""
    cfg = config(*overrides)
    return training_set(cfg, load_sets(cfg))


def batch(*overrides: str, rows: range = range(8), epoch: int = 0) -> SequenceBatch:
    """Some rows of the training set."""
    return training(*overrides)[[(index, epoch) for index in rows]]


def golden_views(case: dict) -> tuple[Tensor, Tensor]:
    """h_1 and h_2 of a golden case."""
    count, dim = case["B"], case["D"]
    places = torch.arange(count * dim, dtype=torch.float64)
    h_1 = (1 + 0.29 * places).sin().view(count, dim)
    h_2 = (0.2 + 0.31 * places).cos().view(count, dim)
    return h_1.requires_grad_(), h_2.requires_grad_()


def golden_augmenter(case: dict, shift: float) -> Augmenter:
    """An augmenter with the golden parameters."""
    augmenter = Augmenter(case["D"], case["layers"][1:-1]).double()
    for number, parameter in enumerate(augmenter.parameters()):
        places = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.data = 0.3 * (shift + number + 0.11 * places).sin().view_as(parameter)
    return augmenter
