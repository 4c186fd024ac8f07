"""Configs, golden values and small models for the tests of Vega."""

import json
from pathlib import Path

import pytest
import torch

from common.engine import checkpoint as ckpt
from common.engine.run import train
from projects.vega.config import Config
from projects.vega.module import FineTune
from projects.vega.network import first_classifier, first_pretraining, tokenizer_of
from projects.vega.phases import Pretrain
from projects.vega.pretraining import training_data as pretraining_data
from projects.vega.stages import training_data, training_part
from tests.configs import configs_of
from tests.figures import unrendered

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/vega.json").read_text("utf-8"))
PLAIN = ["sift.enabled=false", "self_calibration.enabled=false", "transductive.enabled=false"]
STILL = ["model.dropout=0.0", "model.head_dropout=0.0"]
FAST = ["trainer.val_every_n_steps=null", "eval.noise=0.0"]

config = configs_of(Config, "vega")


def finetune_of(*overrides: str) -> tuple[FineTune, dict[str, object]]:
    """The module of the smoke config in training mode, and a batch of eight."""
    cfg = config(*overrides)
    module = FineTune(cfg, first_classifier(cfg))
    data = training_data(cfg, module, training_part(cfg)).train_set
    return module, data[[(i, 0) for i in range(8)]]


def pretrain_of(*overrides: str, phase: int = 2) -> tuple[Pretrain, dict[str, object]]:
    """Generator and discriminator of the smoke config in training mode, and a batch of eight."""
    cfg = config(*overrides, name="smoke_pretrain")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Pretrain(cfg, first_pretraining(cfg), tokenizer_of(cfg.model), phase)
    return module, pretraining_data(cfg, module).train_set[[(i, 0) for i in range(8)]]


def run_of(folder: Path, *overrides: str, name: str = "smoke") -> Path:
    """A trained smoke run."""
    with unrendered():
        return train("vega", name, [f"runs_dir={folder}", *overrides])


def weights_of(run: Path, stage: str) -> dict[str, torch.Tensor]:
    """What a stage of a run trained last."""
    found: dict[str, torch.Tensor] = ckpt.load(ckpt.latest(run / "checkpoints" / stage))["state_dict"]  # fmt: skip
    return found


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all tricks off, two steps."""
    folder = tmp_path_factory.mktemp("vega")
    return run_of(folder, "run_id=plain", "trainer.max_steps=2", *PLAIN, *FAST)


@pytest.fixture(scope="session")
def pretrained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both phases."""
    return run_of(tmp_path_factory.mktemp("vega-pre"), "run_id=pre", name="smoke_pretrain")
