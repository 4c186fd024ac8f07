"""Devices, groups and the end of several processes, seen from one of them."""

import datetime
import multiprocessing as mp
import os
import re
import signal
import threading

import pytest
import torch

import tests.toy
from common.config import ExperimentConfig, TrainerConfig, UserError
from common.engine import run
from common.engine.lifecycle import launch, lock
from common.engine.lifecycle.signals import Signals
from tests.toy.command import use_toy
from tests.unit.engine.lifecycle.test_lock import locked_by

PLACES = (
    "LOCAL_RANK",
    "SLURM_LOCALID",
    "RANK",
    "WORLD_SIZE",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_JOB_ID",
)


@pytest.fixture
def cuda(monkeypatch):
    """`cuda(number, **variables)`: so many devices; the list of those that were made current."""
    taken = []

    def install(number, **variables):
        for name in PLACES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        return taken

    return install


@pytest.mark.parametrize(
    ("variables", "trainer", "found"),
    [
        ({"LOCAL_RANK": "3"}, {"devices": 8}, [3]),
        ({"SLURM_LOCALID": "5"}, {"devices": 8}, [5]),
        ({"LOCAL_RANK": "2", "SLURM_LOCALID": "0"}, {"devices": "auto"}, [2]),  # torchrun in a job
        ({"LOCAL_RANK": "1"}, {"devices": [2, 6]}, [6]),
        ({}, {"devices": [4]}, [4]),
        ({"LOCAL_RANK": "0"}, {"devices": 8}, []),  # current anyway
        ({}, {"devices": 1}, []),
        ({"LOCAL_RANK": "3"}, {"devices": 8, "accelerator": "cpu"}, []),
    ],
)
def test_a_process_takes_the_device_that_it_will_train_on(cuda, variables, trainer, found):
    taken = cuda(8, **variables)
    launch.take_device(TrainerConfig(**trainer))
    assert taken == found


def test_a_process_that_sees_one_device_keeps_it(cuda):
    taken = cuda(1, SLURM_LOCALID="3")
    launch.take_device(TrainerConfig(devices=1))
    assert taken == []


def test_the_device_is_taken_before_stages_are_built(cuda, monkeypatch, tmp_path):
    """What stages encode before the first fit ran on the first device in all processes."""
    use_toy(monkeypatch)
    taken = cuda(8, LOCAL_RANK="3", WORLD_SIZE="8")

    def build(cfg):
        taken.append("build")
        raise UserError("far enough")

    monkeypatch.setattr(tests.toy, "build", build)
    words = [f"runs_dir={tmp_path}", "trainer.accelerator=auto", "trainer.devices=8"]
    with pytest.raises(UserError, match="far enough"):
        run.train("toy", "smoke", words)
    assert taken == [3, "build"]


@pytest.mark.parametrize(("accelerator", "backend"), [("auto", "nccl"), ("cpu", "gloo")])
def test_the_group_of_torchrun_has_the_time_of_the_trainers(
    cuda, monkeypatch, accelerator, backend
):
    """NCCL's own time-out is ten minutes; a run on the CPU of a machine with GPUs got NCCL."""
    cuda(2, RANK="1", LOCAL_RANK="1", WORLD_SIZE="2")
    begun = []
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, timeout: begun.append((name, timeout))
    )
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda box, src: None)
    trainer = TrainerConfig(accelerator=accelerator, max_steps=1)
    launch.agreed_run_id(ExperimentConfig(trainer=trainer))
    assert begun == [(backend, datetime.timedelta(minutes=30))]


def test_other_processes_stay_until_the_owner_has_evaluated(cuda, monkeypatch, tmp_path):
    """They left after the fit, while rank 0 evaluated with NCCL's communicators still up."""
    use_toy(monkeypatch)
    cuda(0, LOCAL_RANK="1", WORLD_SIZE="2")
    folder = tmp_path / "toy/smoke/r"
    folder.mkdir(parents=True)
    locked_by(folder, os.getppid())
    monkeypatch.setattr(run, "_fit_stages", lambda *_: (None, {}))
    owner = threading.Timer(0.4, (folder / lock.NAME).unlink)
    owner.start()
    try:
        run.train("toy", "smoke", [f"runs_dir={tmp_path}", "run_id=r"])
        assert not lock.held(folder)
    finally:
        owner.join()


def leave(number):
    try:
        with Signals():
            os.kill(os.getpid(), number)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)  # what srun sends once another task has left


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGINT, -15)])
def test_a_task_on_its_way_out_keeps_the_code_that_queues_the_job_again(number, code):
    """With 143 in place of 138 the job script would not queue the job again."""
    task = mp.get_context("fork").Process(target=leave, args=(number,))
    task.start()
    task.join(60)
    assert task.exitcode == code


SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "a"}, "RANK='a', which is no number: unset RANK"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='', which is no number"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK without WORLD_SIZE: unset LOCAL_RANK"),
        (SLURM, "SLURM starts 4 tasks: give --ntasks-per-node="),
        ({**SLURM, "SLURM_NTASKS_PER_NODE": "4"}, "and SLURM starts 4: give trainer.devices=4"),
        (
            {**SLURM, "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "4"},
            "and SLURM starts 4: give trainer.num_nodes=4",
        ),
    ],
)
def test_a_launcher_that_contradicts_the_settings_is_refused(monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(said)):
        launch.check_launcher(TrainerConfig())


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "RANK": "1"},
        {**SLURM, "SLURM_JOB_NAME": "bash"},
        {**SLURM, "TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "4"},
        {**SLURM, "SLURM_NTASKS": "1", "SLURM_NNODES": "1"},
    ],
)
def test_launchers_that_agree_pass(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launch.check_launcher(TrainerConfig())
