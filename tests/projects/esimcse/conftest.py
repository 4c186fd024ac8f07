"""Configs, golden inputs and modules for the tests of ESimCSE."""

import json
from pathlib import Path

import torch
from torch import Tensor

from common.families.sentences.module import build_encoder
from projects.esimcse.config import Config
from projects.esimcse.module import ESimCSE
from tests.configs import configs_of
from tests.unit.losses.golden import sentences

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/esimcse.json").read_text(encoding="utf-8"))

config = configs_of(Config, "esimcse")


def module_of(*overrides: str) -> ESimCSE:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return ESimCSE(cfg, build_encoder(cfg.model)).train()


def wave(rows: int, views: int, dim: int) -> tuple[Tensor, ...]:
    """Golden encoder outputs by view, float64 leaves that want gradients."""
    h = sentences(rows, views, dim).detach()
    return tuple(view.clone().requires_grad_() for view in h.unbind(1))


def queue_wave(size: int, dim: int) -> Tensor:
    """Golden queue (Q, d)."""
    q = torch.arange(size, dtype=torch.float64)[:, None]
    return torch.cos(0.7 * q + 1.3 * torch.arange(dim, dtype=torch.float64))


def batch(rows: int = 4, length: int = 9, seed: int = 0, extra: int = 2) -> dict[str, Tensor]:
    """Two views of random token rows of different lengths; the second view is `extra` longer."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(5, length + 1, (rows,), generator=generator)
    width = length + extra
    ids = torch.randint(10, 200, (2, rows, width), generator=generator)
    ids[1, :, :length] = ids[0, :, :length]
    ids[..., 0] = 2
    sizes = torch.stack([sizes, sizes + extra])
    mask = (torch.arange(width) < sizes[..., None]).long()
    ids = torch.where(mask.bool(), ids, torch.zeros_like(ids))
    return {
        "input_ids": ids.reshape(2 * rows, width),
        "attention_mask": mask.reshape(2 * rows, width),
        "ids": torch.arange(rows),
    }
