"""Configs, golden inputs and modules for the tests of WhitenedCSE."""

import json
from pathlib import Path

import torch
from torch import Tensor

from common.families.sentences.module import build_encoder
from projects.whitenedcse.config import Config
from projects.whitenedcse.data import train_set
from projects.whitenedcse.module import WhitenedCSE
from tests.configs import configs_of

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "whitenedcse.json").read_text(encoding="utf-8"))
SIMCSE = json.loads((FOLDER / "simcse.json").read_text(encoding="utf-8"))

config = configs_of(Config, "whitenedcse")


def module_of(*overrides: str) -> WhitenedCSE:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return WhitenedCSE(cfg, build_encoder(cfg.model)).train()


def batch(*overrides: str, rows: int = 8) -> dict[str, Tensor]:
    """The first sentences of the training set, first epoch."""
    cfg = config(*overrides)
    views = train_set(cfg, build_encoder(cfg.model))
    return dict(views[[(index, 0) for index in range(rows)]])  # type: ignore[arg-type]


def golden_blocks(case: dict) -> tuple[Tensor, Tensor | None, Tensor]:
    """Blocks (3, n, D), permutations (3, D) and the weights of the scalar, as the file says."""
    n, dim = case["rows_per_view_n"], case["D"]
    # the recorded run evaluated the formula in float32 as well
    i, j = torch.arange(3 * n).float()[:, None], torch.arange(dim).float()
    x = torch.sin(1.7 * i + 0.9 * j * j + 0.2 * i * j) + 0.3 * torch.cos(0.5 * j) * torch.sin(
        0.11 * i * i
    )
    steps, places = ((5, 1), (7, 2), (11, 3)), torch.arange(dim)
    permutations = torch.stack([(a * places + c) % dim for a, c in steps])
    weights = torch.cos(0.37 * torch.arange(3 * n * dim).float()).view(3, n, dim)
    shuffled = case["shuffle"] and case["groups_G"] > 1
    return x.view(3, n, dim), permutations if shuffled else None, weights
