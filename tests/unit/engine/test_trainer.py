"""What the trainer section becomes on this machine."""

import json
from fractions import Fraction
from math import floor
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from common.config import DataConfig, ExperimentConfig, OptimConfig, TrainerConfig
from common.data.module import ContrastiveData
from common.engine import trainer
from common.engine.check import count_steps
from common.engine.experiment import Stage
from common.engine.module import ContrastiveModule
from common.engine.run import train
from common.engine.trainer import (
    computes_bfloat16,
    epoch_steps,
    is_deterministic,
    run_precision,
    total_steps,
)
from common.engine.workspace import Workspace


def test_emulated_bfloat16_runs_in_float32(monkeypatch):
    """Only bf16-mixed, only on a processor without it; on a GPU and elsewhere the config counts."""
    asked = TrainerConfig(precision="bf16-mixed", accelerator="cpu")
    monkeypatch.setattr(trainer, "computes_bfloat16", lambda: False)
    assert run_precision(asked) == "32-true"
    for other in ("32-true", "bf16-true", "64-true"):
        assert run_precision(TrainerConfig(precision=other, accelerator="cpu")) == other
    assert run_precision(TrainerConfig(precision="bf16-mixed", accelerator="gpu")) == "bf16-mixed"
    monkeypatch.setattr(trainer, "computes_bfloat16", lambda: True)
    assert run_precision(asked) == "bf16-mixed"


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [(None, True, False), (None, False, True), (True, True, True), (False, False, False)],
)
def test_operations_are_deterministic_where_that_is_free_or_asked_for(
    asked, gpus, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    assert is_deterministic(TrainerConfig(deterministic=asked)) == expected


@pytest.mark.parametrize("deterministic", [True, False])
def test_cudnn_times_its_algorithms_unless_operations_are_deterministic(
    deterministic, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    settings = TrainerConfig(max_steps=1, accelerator="cpu", deterministic=deterministic)
    data = ContrastiveData(TensorDataset(torch.zeros(4, 1)), batch_size=1, seed=0)
    stage = Stage("train", ContrastiveModule(OptimConfig()), data)
    trainer.build_trainer(ExperimentConfig(trainer=settings), stage, 0, Workspace(tmp_path), [])
    assert torch.backends.cudnn.benchmark != deterministic


@pytest.mark.parametrize(
    ("found", "fast"),
    [
        ({"avx512_bw": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True, "neon": True}, True),
        ({"neon": True}, False),
    ],
)
def test_processors_with_bfloat16(monkeypatch, found, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert computes_bfloat16() == fast


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_says_and_keeps_what_it_computes_in(tmp_path, monkeypatch, capsys, fast):
    monkeypatch.setattr(trainer, "computes_bfloat16", lambda: fast)
    words = ["trainer.precision=bf16-mixed", "trainer.max_steps=2", f"runs_dir={tmp_path}"]
    run = train("simcse", "smoke", words)
    meta = json.loads((run / "meta.json").read_text())
    assert meta["precision"] == ("bf16-mixed" if fast else "32-true")
    assert ("only emulates bf16-mixed; runs in 32-true" in capsys.readouterr().out) != fast


@pytest.mark.parametrize(
    ("epochs", "batches", "accumulate", "steps"),
    [("30", 49, 3, 490), ("0.29", 100, 1, 29), ("1", 7, 2, 3), ("3", 7, 2, 10), ("0.1", 3, 1, 1)],
)
def test_steps_of_epochs(epochs, batches, accumulate, steps):
    """As many as are full; an epoch's rest begins the next step.

    The check and the run say the same.
    """
    section = TrainerConfig(
        max_epochs=float(epochs), accumulate_grad_batches=accumulate, accelerator="cpu"
    )
    stage = SimpleNamespace(data=SimpleNamespace(batches_per_epoch=lambda world_size: batches))
    assert total_steps(section, stage) == (steps, batches / accumulate)
    cfg = ExperimentConfig(data=DataConfig(batch_size=8), trainer=section)
    assert count_steps(cfg, 8 * batches + 7) == steps


def test_steps_of_epochs_are_exact():
    for accumulate in (1, 3, 7, 49):
        section = TrainerConfig(max_epochs=30, accumulate_grad_batches=accumulate)
        for batches in range(1, 500):
            assert epoch_steps(section, batches) == max(
                1, floor(Fraction(30 * batches, accumulate))
            )
