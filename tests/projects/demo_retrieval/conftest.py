"""Configs, golden values, small modules and one short run that several tests read."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.engine.run import train
from projects.demo_retrieval.config import Config
from projects.demo_retrieval.module import DemoRetrieval
from projects.demo_retrieval.stages import Tasks, build_module, make_bank, read_tasks
from tests.configs import load

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/demo_retrieval.json").read_text("utf-8"))
WORDS = ["model.dropout=0.0"]


def config(*overrides: str, name: str = "smoke") -> Config:
    """A config of the project with overrides; no dropout."""
    return load(Config, "demo_retrieval", name, [*(WORDS if name == "smoke" else []), *overrides])


def module_of(*overrides: str) -> tuple[DemoRetrieval, Tasks]:
    """Module of the smoke config with its bank, from a fixed seed, and the tasks."""
    cfg = config(*overrides)
    tasks = read_tasks(cfg)
    torch.manual_seed(0)
    return build_module(cfg, make_bank(cfg, tasks)), tasks


def fill(shape: tuple[int, ...], s: float) -> Tensor:
    """The golden file's formula."""
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(s + 0.7 * k + 0.013 * k * k).view(shape).float()


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """Folder of a finished smoke run."""
    folder = tmp_path_factory.mktemp("demo_retrieval")
    return train("demo_retrieval", "smoke", [*WORDS, f"runs_dir={folder}", "run_id=full"])
