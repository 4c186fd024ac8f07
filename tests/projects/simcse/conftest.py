"""Configs, golden inputs and small encoders for the tests of SimCSE."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config import load
from common.encoders.sentence import SentenceEncoder
from common.engine.sentences import build_encoder
from projects.simcse.config import Config
from projects.simcse.module import SimCSE

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/simcse.json").read_text(encoding="utf-8"))
TEXTS = ["a man plays the guitar", "the cat sleeps", "two dogs run over a field", "it rains"]


def config(*overrides: str, name: str = "smoke") -> Config:
    """A config of the project with overrides."""
    return load(Config, "simcse", name, overrides)


def encoder(cfg: Config, seed: int = 0) -> SentenceEncoder:
    """The config's encoder from a seed."""
    torch.manual_seed(seed)
    return build_encoder(cfg.model)


def module(*overrides: str, seed: int = 0) -> SimCSE:
    """The module of the smoke config with overrides."""
    cfg = config(*overrides)
    return SimCSE(cfg, encoder(cfg, seed))


def golden_vectors(case: dict) -> Tensor:
    """The encoder outputs h (B, S, d) of a golden case, float64."""
    b, s, d = (torch.arange(case[k], dtype=torch.float64) for k in ("B", "S", "d"))
    b, s, j = b[:, None, None], s[None, :, None], d[None, None, :]
    phase = (b * case["S"] + s) * case["d"] + j
    return torch.sin(1 + phase) * (1 + 0.1 * s) + 0.3 * torch.cos(b + 0.5 * j)


def golden_head(dim: int) -> nn.Module:
    """The head tanh(W x + b) of the golden cases with an MLP."""
    index = torch.arange(dim, dtype=torch.float64)
    dense = nn.Linear(dim, dim).double()
    dense.weight.data = 0.2 * torch.cos(index[:, None] * dim + index)
    dense.bias.data = 0.05 * torch.sin(index)
    return nn.Sequential(dense, nn.Tanh())
