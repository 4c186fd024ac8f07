"""Several nodes on one machine: torchrun, a scheduler's tasks, and a job that is queued again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common.config import ROOT
from common.engine import checkpoint as ckpt
from common.engine.lifecycle.launch import job_run_id
from tests.test_resume import COMMON
from tests.toy.command import Command

HALF = ["trainer.num_nodes=2", "data.batch_size=8"]  # a process's share of the 16 of one
SCRIPT = ROOT / "scripts/slurm/train.sbatch"


def weights(run: Path) -> dict[str, torch.Tensor]:
    path = ckpt.newest_intact(run / "checkpoints/stage0")[0]
    assert path is not None
    return ckpt.load(path)["state_dict"]


def words(folder: Path, *more: str) -> list[str]:
    # dropout is drawn by each process for itself
    return ["train", "toy", "smoke", f"runs_dir={folder}", *COMMON, "model.dropout=0.0", *more]


def free_port() -> int:
    with socket.socket() as actual:
        actual.bind(("localhost", 0))
        return int(actual.getsockname()[1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("alone")
    run = Command(folder / "printed", *words(folder, "run_id=r"))
    assert run.ends() == 0, run.errors
    return weights(folder / "toy/smoke/r")


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_torchrun_nodes_train_the_same_weights_into_one_folder(tmp_path, alone):
    port = free_port()
    nodes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nnodes=2",
                f"--node-rank={rank}",
                "--nproc-per-node=1",
                "--master-addr=localhost",
                f"--master-port={port}",
                "-m",
                "tests.toy",
                *words(tmp_path, *HALF),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(printed)[-3000:]
    (run,) = (tmp_path / "toy/smoke").iterdir()
    assert_close(weights(run), alone)


def tasks(folder: Path, said: Path, sleep: str = "0") -> list[Command]:
    """What srun starts for a job of two nodes with one task each."""
    job = {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NAME": "contrastive",
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "localhost",
        "SLURM_LOCALID": "0",
        "MASTER_PORT": str(free_port()),
        "TOY_SLEEP": sleep,
    }
    return [
        Command(
            said / str(rank),
            *words(folder, *HALF),
            env={**job, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)},
        )
        for rank in range(2)
    ]


@pytest.mark.slow
def test_a_job_that_is_told_its_end_saves_and_goes_on_when_it_is_queued_again(tmp_path, alone):
    first = tasks(tmp_path, tmp_path / "first", sleep="0.15")
    run = tmp_path / "toy/smoke/slurm-77"
    deadline = time.monotonic() + 200
    while not (run / "checkpoints/stage0/step-00000002.ckpt").exists():
        assert all(task.process.is_alive() for task in first), [task.errors for task in first]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for task in first:
        task.send(signal.SIGUSR1)
    assert [task.ends(120) for task in first] == [138, 138]
    assert not (run / "checkpoints/stage0/finished.json").exists()
    second = tasks(tmp_path, tmp_path / "second")
    assert [task.ends(240) for task in second] == [0, 0], [task.errors for task in second]
    assert [p.name for p in (tmp_path / "toy/smoke").iterdir()] == ["slurm-77"]
    assert_close(weights(run), alone)


@pytest.mark.parametrize(("code", "requeued"), [(138, True), (143, False), (1, False), (0, False)])
def test_the_job_script_queues_again_what_has_saved_at_the_end_of_its_time(
    tmp_path, code, requeued
):
    for name, text in {
        "srun": f'echo "$@" > {tmp_path}/srun.txt; exit {code}',
        "scontrol": f'echo "$@" > {tmp_path}/scontrol.txt',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "5",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "7",
    }
    done = subprocess.run(["bash", SCRIPT, "laclip", "paper", "seed=2"], env=env)
    assert done.returncode == code
    said = (tmp_path / "srun.txt").read_text().split()
    assert said[-7:] == [
        "common.cli",
        "train",
        "laclip",
        "paper",
        "trainer.devices=8",
        "trainer.num_nodes=2",
        "seed=2",
    ]
    # one task that failed left the others waiting; srun took over no CPUs per task
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=7"} <= set(said)
    assert (tmp_path / "scontrol.txt").exists() == requeued
    if requeued:
        assert (tmp_path / "scontrol.txt").read_text() == "requeue 5\n"
    assert "--signal=USR1@" in SCRIPT.read_text()


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({"SLURM_PROCID": "0", "SLURM_JOB_NAME": "contrastive"}, "slurm-9"),  # one task
        ({"SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"}, None),  # a shell inside a job
        ({"SLURM_JOB_NAME": "contrastive"}, None),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, "slurm-9"),
    ],
)
def test_the_run_id_of_a_job(monkeypatch, variables, found):
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_JOB_ID": "9", **variables}.items():
        monkeypatch.setenv(name, value)
    assert job_run_id(type("Config", (), {"run_id": None})()) == found
