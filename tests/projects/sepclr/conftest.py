"""Configs, golden inputs and batches for the tests of SepCLR."""

import json
from pathlib import Path

import torch
from torch import Tensor

from projects.sepclr.config import Config
from projects.sepclr.module import SepCLR
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/sepclr.json").read_text(encoding="utf-8"))
LEAKAGES = ("kjem", "none", "mmd", "correlation", "vclub")
SUPERVISED = (
    "method.objective=supervised",
    "method.attributes=[corner]",
    "method.discrete=[corner]",
    "model.salient_dim=1",
)

config = configs_of(Config, "sepclr")


def module_of(*overrides: str) -> SepCLR:
    """A module of the smoke config with seeded weights, in training mode."""
    torch.manual_seed(0)
    return SepCLR(config(*overrides)).train()


def wave(rows: int, dim: int, phase: float) -> Tensor:
    """Golden input sin(phase + i * dim + j), a float64 leaf."""
    index = torch.arange(rows * dim, dtype=torch.float64).view(rows, dim)
    return torch.sin(phase + index).requires_grad_()


def heads(rows: int, dim: int, seed: int = 0) -> list[Tensor]:
    """Random heads of two views, float64 leaves."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)
    return [view.clone().requires_grad_() for view in x]


def batch(
    rows: int = 8,
    size: int = 16,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    num_factors: int = 0,
) -> dict:
    """Two views of random images; three of eight are targets."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(2, rows, 3, size, size, generator=generator).to(dtype)
    return {
        "view_1": pixels[0],
        "view_2": pixels[1],
        "target": torch.arange(rows) % 8 < 3,
        "factors": (torch.arange(rows) % 4).float()[:, None].repeat(1, num_factors),
        "ids": torch.arange(rows),
        "skipped": 0,
    }
