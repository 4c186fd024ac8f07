"""Configs and golden inputs for the tests of CACR."""

import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from projects.cacr.config import Config, MethodConfig
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/cacr.json").read_text(encoding="utf-8"))
HOSTS = ("batch", "queue", "momentum")
WEIGHTINGS = ("full", "without_w1", "without_w2", "none")

config = configs_of(Config, "cacr")


def method(**options: object) -> MethodConfig:
    """A method section."""
    return MethodConfig(**options)  # type: ignore[arg-type]


def golden_method(case: dict) -> MethodConfig:
    """The method section of a multi-view golden case."""
    return method(
        tau_pos=case["tau_pos"],
        tau_neg=case["tau_neg"],
        alpha=case["alpha"],
        beta=case["beta"],
        weighting=case["choice"],
        tau_plus=case["tau_plus"] if case["with_debiased"] else 0.0,
    )


def wave(rows: int, dim: int, phase: float) -> Tensor:
    """Golden input sin(phase + i * dim + j), float64."""
    return torch.sin(phase + torch.arange(rows * dim, dtype=torch.float64)).view(rows, dim)


def golden_views(case: dict) -> list[Tensor]:
    """The unit views of a multi-view case, leaves that want gradients."""
    return [
        F.normalize(wave(case["N"], case["d"], 1 + 0.3 * v), dim=1).requires_grad_()
        for v in range(case["views_total_K_plus_1"])
    ]


def random_views(views: int, rows: int, dim: int = 8, seed: int = 0) -> Tensor:
    """Correlated unit views (V, B, D), float64."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(views, rows, dim, generator=generator, dtype=torch.float64)
    return F.normalize(base + 0.5 * noise, dim=-1)


def batch(
    rows: int = 6,
    size: int = 16,
    views: int = 3,
    local_views: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict:
    """Views of random images."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(views, rows, 3, size, size, generator=generator).to(dtype)
    actual = {"views": pixels, "ids": torch.arange(rows), "skipped": 0}
    if local_views:
        local = torch.randn(local_views, rows, 3, size // 2, size // 2, generator=generator)
        actual["local_views"] = local.to(dtype)
    return actual
