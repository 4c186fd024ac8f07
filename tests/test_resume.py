"""Runs that are killed and continued equal runs that were not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from common.engine import checkpoint as ckpt
from tests.interrupted import flat
from tests.toy.command import Command

COMMON = ["trainer.checkpoint_every_n_steps=2", "trainer.max_steps=8", "tracking.wandb=disabled"]


def words_of(folder: Path, *overrides: str) -> list[str]:
    return ["train", "toy", "smoke", f"runs_dir={folder}", "run_id=r", *COMMON, *overrides]


def command(folder: Path, *overrides: str, env: dict | None = None) -> Command:
    return Command(folder / "printed", *words_of(folder, *overrides), env=env)


def run(folder: Path, *overrides: str, env: dict | None = None) -> str:
    done = command(folder, *overrides, env=env)
    assert done.ends() == 0, done.errors
    return done.printed


def interrupt(folder: Path, stage: str, step: int, number: int, *overrides: str) -> int:
    """Start a slow run, send a signal once a checkpoint of that step exists; the exit code."""
    slow = command(folder, *overrides, env={"TOY_SLEEP": "0.15"})
    target = folder / f"toy/smoke/r/checkpoints/{stage}/step-{step:08d}.ckpt"
    deadline = time.monotonic() + 90
    while not target.exists() and slow.process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # into the next step
    slow.send(number)
    return slow.ends()


def state(folder: Path) -> dict:
    path = ckpt.newest_intact(folder / "toy/smoke/r/checkpoints/stage1")[0]
    assert path is not None
    return ckpt.load(path)


def assert_equal_states(left: dict, right: dict) -> None:
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step")
    a, b = (flat({k: s[k] for k in keys}) for s in (left, right))
    assert a.keys() == b.keys()
    assert any("queue" in k for k in a)
    assert any("EMA" in k for k in a)
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return state(folder)


@pytest.mark.parametrize(("stage", "step"), [("stage0", 4), ("stage1", 2)])
def test_sigkill_then_resume_is_bit_identical(tmp_path, uninterrupted, stage, step):
    """Weights, optimiser, schedule, EMA and queue; mid-epoch (4 batches each) and mid-stage."""
    assert interrupt(tmp_path, stage, step, signal.SIGKILL) == -signal.SIGKILL
    (tmp_path / f"toy/smoke/r/checkpoints/{stage}/step-00000099.tmp").write_bytes(b"half")
    assert f"{stage}: continues after step" in run(tmp_path, "resume=latest")
    assert_equal_states(state(tmp_path), uninterrupted)


def test_sigterm_saves_and_exits_143_then_resume_is_bit_identical(tmp_path, uninterrupted):
    code = interrupt(tmp_path, "stage0", 2, signal.SIGTERM, "trainer.checkpoint_every_n_steps=2")
    assert code == 143
    run(tmp_path, "resume=latest")
    assert_equal_states(state(tmp_path), uninterrupted)


@pytest.mark.slow
def test_a_run_on_two_devices_refuses_a_second_writer_and_ends_as_a_whole(tmp_path):
    """Between its stages, where neither Lightning nor the training loop looks after signals."""
    env = {**os.environ, "TOY_SLEEP_BETWEEN": "600"}
    # a process of its own: Lightning starts the second one by its command line
    words = [sys.executable, "-m", "tests.toy", *words_of(tmp_path, "trainer.devices=2")]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=env)
    folder = tmp_path / "toy/smoke/r"
    deadline = time.monotonic() + 200
    while not (folder / "checkpoints/stage0/finished.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rows = (folder / "metrics.csv").read_text()
    second = command(tmp_path, "resume=r")
    assert second.ends() == 2
    (said,) = second.errors.strip().splitlines()
    assert said.startswith(f"error: {folder} is being written by process {process.pid} on ")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    assert (folder / "metrics.csv").read_text() == rows
    assert json.loads((folder / "meta.json").read_text())["state"] == "stopped"
    assert not (folder / "lock.json").exists()


def test_another_seed_gives_another_state(tmp_path, uninterrupted):
    """The comparison can fail."""
    run(tmp_path, "seed=1")
    with pytest.raises(AssertionError):
        assert_equal_states(state(tmp_path), uninterrupted)


@pytest.mark.slow
def test_wandb_keeps_its_run_id_after_resume(tmp_path):
    """One offline run per job: both processes write under the run folder with the same id.

    The service of the surrounding process, named in the environment, is not theirs.
    """
    overrides = ["tracking.wandb=offline", "num_stages=1"]
    foreign = {"WANDB_SERVICE": f"3-1-unix-{tmp_path}/nobody-listens"}
    env = {"WANDB_MODE": "offline", **foreign}
    slow = command(tmp_path, *overrides, env={**env, "TOY_SLEEP": "0.15"})
    target = tmp_path / "toy/smoke/r/checkpoints/stage0/step-00000002.ckpt"
    while not target.exists() and slow.process.is_alive():
        time.sleep(0.02)
    slow.send(signal.SIGTERM)
    slow.ends()
    run(tmp_path, *overrides, "resume=latest", env=env)
    folders = list((tmp_path / "toy/smoke/r/wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert {f.name.rsplit("-", 1)[1] for f in folders} == {"r"}
    meta = json.loads((tmp_path / "toy/smoke/r/meta.json").read_text())
    assert meta["finished"]
