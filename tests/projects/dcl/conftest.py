"""Configs and golden inputs for the tests of DCL."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from projects.dcl.config import Config, MethodConfig
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/dcl.json").read_text(encoding="utf-8"))
HOSTS, LOSSES = ("simclr", "moco", "nnclr"), ("infonce", "dcl", "dclw")

config = configs_of(Config, "dcl")


def method(loss: str = "dcl", temperature: float = 0.1, **options: object) -> MethodConfig:
    """A method section."""
    return MethodConfig(loss=loss, temperature=temperature, **options)  # type: ignore[arg-type]


def wave(rows: int, dim: int, phase: float) -> Tensor:
    """Golden input sin(phase + i * dim + j), float64."""
    return torch.sin(phase + torch.arange(rows * dim, dtype=torch.float64)).view(rows, dim)


def views(case: dict) -> tuple[Tensor, Tensor]:
    """The raw matrices x1, x2 of a golden case, leaves that want gradients."""
    rows, dim = case["N"], case["d"]
    return tuple(wave(rows, dim, phase).requires_grad_() for phase in (1.0, 1.3))  # type: ignore


def random_views(rows: int, dim: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated unit views, float64."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, rows, dim, generator=generator, dtype=torch.float64)
    return F.normalize(base + 0.5 * noise[0], dim=1), F.normalize(base + 0.5 * noise[1], dim=1)


def batch(rows: int = 6, size: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict:
    """Two views of random images."""
    pixels = torch.randn(2, rows, 3, size, size, generator=torch.Generator().manual_seed(seed))
    pixels = pixels.to(dtype)
    return {"view_1": pixels[0], "view_2": pixels[1], "ids": torch.arange(rows), "skipped": 0}
