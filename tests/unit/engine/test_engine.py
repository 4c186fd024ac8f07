"""The engine on the toy project: run folder, guard, EMA, accumulation, two processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.config import UserError
from common.engine import checkpoint as ckpt
from common.engine import run
from common.engine.callbacks import EMA, step_seed
from tests.toy.command import Command, use_toy


def final_state(run: Path, stage: str = "stage0") -> dict:
    path = ckpt.newest_intact(run / "checkpoints" / stage)[0]
    assert path is not None
    return ckpt.load(path)


@pytest.mark.slow
def test_run_folder_and_two_processes_equal_one(tmp_path, monkeypatch):
    """CPU DDP with two processes has the joint batch's loss and, after training, its weights.

    The two are started from the command line: the launcher's own second process joins the run
    folder of the first.
    """
    common = [
        f"runs_dir={tmp_path}",
        "num_stages=1",
        "model.dropout=0",
        "trainer.accelerator=cpu",
        "data.num_samples=64",
    ]
    words = [*common, "run_id=two", "data.batch_size=8", "trainer.devices=2"]
    command = [sys.executable, "-m", "tests.toy", "train", "toy", "smoke", *words]
    two = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert two.returncode == 0, two.stderr
    use_toy(monkeypatch)
    run.train("toy", "smoke", [*common, "run_id=one", "data.batch_size=16"])
    folders = sorted(p.name for p in (tmp_path / "toy/smoke").iterdir())
    assert folders == ["one", "two"]  # a single folder for both processes
    first, second = (final_state(tmp_path / "toy/smoke" / n)["state_dict"] for n in folders)
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-5), name
    folder = tmp_path / "toy/smoke/two"
    assert {"config.yaml", "meta.json", "metrics.csv", "metrics.json", "checkpoints"} <= {
        p.name for p in folder.iterdir()
    }
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["world_size"] == 2
    assert meta["global_batch_size"] == 16
    assert meta["negatives_per_query"] == 15
    assert meta["samples_per_second"] > 0


def test_non_finite_loss_stops_before_the_step_and_names_the_batch(tmp_path):
    words = [f"runs_dir={tmp_path}", "data.poison=3", "run_id=bad", "trainer.ema_decay=null"]
    done = Command(tmp_path / "printed", "train", "toy", "smoke", *words)
    assert done.ends() == 2
    assert "loss is not finite" in done.errors
    bad = json.loads((tmp_path / "toy/smoke/bad/bad_batch_rank0.json").read_text())
    assert bad["terms"] == ["loss"]
    assert 3 in bad["ids"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.accumulate_grad_batches=2"], "adds no negatives"),
        (["data.batch_size=65"], "set data.batch_size=64 or less"),
        (["resume=latest"], "no run of toy/smoke"),
    ],
)
def test_user_errors_leave_no_folder(tmp_path, monkeypatch, words, message):
    use_toy(monkeypatch)
    with pytest.raises(UserError, match=message):
        run.train("toy", "smoke", [f"runs_dir={tmp_path}", *words])
    assert not (tmp_path / "toy").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    net = torch.nn.Linear(3, 2)
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": torch.nn.Linear(4, 2, bias=False).state_dict()}, path)
    with pytest.raises(UserError, match=r"another model: 1 missing \(bias\); 1 of another shape"):
        ckpt.load_weights(net, path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        ckpt.load(path)


def test_ema_by_hand():
    net = torch.nn.Linear(1, 1, bias=False)
    net.device = torch.device("cpu")
    trainer = type("T", (), {"global_step": 0})()
    ema = EMA(0.75)
    net.weight.data.fill_(0.0)
    ema.on_train_start(trainer, net)
    for trainer.global_step, value in ((1, 4.0), (1, 100.0), (2, 8.0)):  # the second: no new step
        net.weight.data.fill_(value)
        ema.on_train_batch_end(trainer, net)
    assert float(ema.average["weight"]) == pytest.approx(0.75 * 1.0 + 0.25 * 8.0)
    with ema.applied(net):
        assert float(net.weight) == pytest.approx(2.75)
    assert float(net.weight) == 8.0


def test_step_seeds_differ_by_every_argument():
    seeds = {
        step_seed(*a)
        for a in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    }
    assert len(seeds) == 5
