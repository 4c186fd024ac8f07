"""Configs, modules and batches for the tests of RTD."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from projects.rtd.config import Config
from projects.rtd.module import RTD
from projects.rtd.stages import composer_of, rtd_data
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/rtd.json").read_text(encoding="utf-8"))

config = configs_of(Config, "rtd")


def module_of(*overrides: str) -> RTD:
    """A module in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    return RTD(cfg, composer_of(cfg))


def batch_of(module: RTD, *overrides: str, size: int = 6) -> dict[str, Tensor]:
    """The first triplets of the smoke data."""
    data, _, _ = rtd_data(config(*overrides), module)
    return data.train_set[[(i, 0) for i in range(size)]]


def waves(rows: int, dim: int, phase: float) -> Tensor:
    """Golden inputs sin(phase + i d + j), float64, with gradient."""
    index = torch.arange(rows * dim, dtype=torch.float64).reshape(rows, dim)
    return torch.sin(phase + index).requires_grad_()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run of both stages."""
    from common.engine.run import train

    folder = tmp_path_factory.mktemp("runs")
    words = [f"runs_dir={folder}", "run_id=r", "eval.validate=true", "trainer.val_every_n_steps=2"]
    return train("rtd", "smoke", words)
