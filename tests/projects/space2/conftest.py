"""Configs, golden values, modules and batches for the tests of SPACE-2."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.engine.run import train
from projects.space2.config import Config
from projects.space2.data import training_data
from projects.space2.finetune import Finetune, build_finetune
from projects.space2.module import Space2
from projects.space2.network import Space2Network, build_network
from tests.configs import configs_of
from tests.figures import unrendered

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/space2.json").read_text("utf-8"))
FRAMES = GOLDEN["inputs"]["frames"]
STILL = ["model.dropout=0.0", "task.head_dropout=0.0"]

config = configs_of(Config, "space2")


def network_of(*overrides: str) -> Space2Network:
    """A network in training mode, equal for equal overrides."""
    torch.manual_seed(0)
    return build_network(config(*overrides))


def module_of(*overrides: str) -> Space2:
    """The module of pre-training."""
    return Space2(config(*overrides), network_of(*overrides)).train()


def finetune_of(*overrides: str) -> Finetune:
    """The module of fine-tuning."""
    torch.manual_seed(0)
    return build_finetune(config("train=finetune", *overrides)).train()


def batch_of(module: Space2, *overrides: str, rows: int = 8, first: int = 0) -> dict[str, Any]:
    """A training batch of both streams."""
    data = training_data(config(*overrides), module.network.texts).train_set
    actual: dict[str, Any] = data[[(first + i, 0) for i in range(rows)]]  # type: ignore[index]
    return actual


def run_of(folder: Path, *overrides: str) -> Path:
    """A trained smoke run."""
    with unrendered():
        return train("space2", "smoke", [f"runs_dir={folder}", *overrides])


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps."""
    return run_of(tmp_path_factory.mktemp("space2"), "run_id=a")
