"""Configs, golden inputs and batches for the tests of the improved baselines."""

import json
from pathlib import Path

import torch
from torch import Tensor

from projects.clip_baselines.config import Config
from projects.clip_baselines.module import Rocket
from tests.configs import configs_of

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden/clip_baselines.json").read_text(encoding="utf-8")
)["outputs"]
BASIC = (
    "data.num_augs=0",
    "method.separate_heads=false",
    "method.label_smoothing=0",
    "method.text_dropout=0",
)
METHODS = ("clip", "siamlip", "byolip", "barlip", "swalip")

config = configs_of(Config, "clip_baselines")


def words_of(method: str, basic: bool = False) -> list[str]:
    """Overrides of a cell of the grid."""
    words = [f"method.name={method}", *(BASIC if basic else ())]
    return [*words, "method.label_smoothing=0"] if method == "swalip" else words


def module_of(*overrides: str) -> Rocket:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    return Rocket(config(*overrides)).train()


def matrix(phase: float, rows: int, dim: int) -> Tensor:
    """Golden M(phase)[i, j] = sin(phase + i d + j), float64, with gradient."""
    index = torch.arange(rows * dim, dtype=torch.float64).reshape(rows, dim)
    return torch.sin(phase + index).requires_grad_()


def tokens(*shape: int, generator: torch.Generator, length: int = 16) -> Tensor:
    """Ids (*shape, length): start, words, end at a place of its own, zeros."""
    ids = torch.randint(1, 40000, (*shape, length), generator=generator)
    ends = torch.randint(3, length, shape, generator=generator)[..., None]
    place = torch.arange(length).expand_as(ids)
    ids = torch.where(place < ends, ids, torch.where(place == ends, 49407, 0))
    ids[..., 0] = 49406
    return ids


def batch(size: int = 6, views: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """A multi-view batch made from a seed."""
    g = torch.Generator().manual_seed(seed)
    return {
        "images": torch.randn(size, 3, 32, 32, generator=g),
        "views": torch.randn(views, size, 3, 32, 32, generator=g),
        "tokens": tokens(size, 1 + views, generator=g),
        "ids": torch.arange(size),
    }


def share_of(whole: dict[str, Tensor], own: slice) -> dict[str, Tensor]:
    """The samples `own` of a batch."""
    return {k: v[:, own] if k == "views" else v[own] for k, v in whole.items()}
