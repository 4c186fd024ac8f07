"""Configs, modules and batches for the tests of CWCL."""

import torch
from torch import Tensor

from projects.cwcl.config import Config
from projects.cwcl.module import ImageTextCWCL
from tests.configs import configs_of

config = configs_of(Config, "cwcl")


def wave(phase: float, rows: int, columns: int) -> Tensor:
    """M[i, j] = sin(phase + i * columns + j), float64."""
    index = torch.arange(rows * columns, dtype=torch.float64)
    return (phase + index).sin().reshape(rows, columns)


def module_of(*overrides: str) -> ImageTextCWCL:
    """A module with the weights of seed 0."""
    torch.manual_seed(0)
    return ImageTextCWCL(config(*overrides))


def batch_of(size: int = 8, length: int = 16) -> dict[str, Tensor]:
    """Images and token rows; rows 0 and 4 have the same image."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 40000, (size, length - 2), generator=generator)
    start, end = torch.full((size, 1), 49406), torch.full((size, 1), 49407)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return {
        "images": images, "tokens": torch.cat([start, words, end], 1), "ids": torch.arange(size),
    }  # fmt: skip
