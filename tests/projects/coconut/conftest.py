"""Configs, batches and golden values for the tests of COCONUT."""

import json
from pathlib import Path

import torch
from torch import Tensor

from projects.coconut.config import Config
from projects.coconut.module import Coconut
from projects.coconut.network import build_network
from projects.coconut.speech.special_tokens import EOS, SEP, SOS
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/coconut.json").read_text(encoding="utf-8"))
ER = ("method.mm_weight=0", "method.nspt_weight=0")
VOCAB = 12

config = configs_of(Config, "coconut")


def module_of(*overrides: str, task: int = 1) -> Coconut:
    """A module of the smoke config without dropout and masks, with seeded weights."""
    torch.manual_seed(0)
    cfg = config("model.dropout=0", "model.augment=false", *overrides)
    return Coconut(cfg, build_network(cfg, VOCAB), task).train()


def batch(rows: int = 6, num_memory: int = 3, seed: int = 0, samples: int = 1600) -> dict:
    """Noise of unequal lengths with targets of one word; the last rows are from the memory."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    labels[rows - num_memory :] = 3 + torch.arange(num_memory) % 2
    words = 6 + labels
    target = [
        torch.full((rows,), SOS),
        words,
        torch.full((rows,), SEP),
        words,
        torch.full((rows,), EOS),
    ]
    return {
        "waveforms": torch.randn(rows, samples, generator=generator),
        "lengths": samples - 100 * (torch.arange(rows) % 4),
        "tokens": torch.stack(target, 1),
        "text_tokens": words[:, None],
        "labels": labels,
        "is_memory": torch.arange(rows) >= rows - num_memory,
        "slots": torch.where(torch.arange(rows) >= rows - num_memory, torch.arange(rows) % 4, -1),
        "ids": torch.arange(rows),
        "skipped": 0,
    }


def unit_rows(rows: int, dim: int, seed: int) -> Tensor:
    """Random unit rows, a float64 leaf."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=1).requires_grad_()
