"""Configs, golden cases, modules and one short run that several tests read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from projects.dito.config import Config
from projects.dito.data import training_data
from projects.dito.module import DITO
from projects.dito.network import DitoNetwork, build_network
from projects.dito.stages import build_module
from tests.configs import configs_of

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/dito.json").read_text(encoding="utf-8"))[
    "cases"
]

config = configs_of(Config, "dito")


def network_of(cfg: Config, trained: tuple[str, ...] = ()) -> DitoNetwork:
    """The network of a config from a fixed seed; the box head's offsets are not all zero."""
    torch.manual_seed(0)
    network = build_network(cfg.model, cfg.detect.rpn_convs)
    network.trained = list(trained)
    return network


def module_of(stage: str, *words: str) -> DITO:
    """Module of a stage, equal for equal arguments."""
    steps = ["method.image_steps=2"] if stage == "image" else []
    cfg = config(f"method.stages=[{stage}]", *steps, *words)
    return build_module(cfg, network_of(cfg, (stage,)), 0)


def batch_of(module: DITO, count: int = 4, epoch: int = 0) -> Any:
    """The first samples of the stage's training set."""
    data: Any = training_data(module.cfg, module.stage, module.network.tokenizer).train_set
    return data[[(i, epoch) for i in range(count)]]


def sines(*shape: int, start: float = 1.0) -> Tensor:
    """Distinct float64 values."""
    return (start + torch.arange(torch.Size(shape).numel(), dtype=torch.float64)).sin().view(shape)


@pytest.fixture
def run(smoke_runs):
    """Folder of the finished smoke run."""
    return smoke_runs("dito")


@pytest.fixture
def exported(smoke_runs):
    """Its export."""
    return smoke_runs.export("dito")
