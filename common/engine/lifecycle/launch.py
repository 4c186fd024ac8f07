"""Which process of a run this is, its device, and how processes start and leave together."""

import os
import time
from datetime import timedelta
from pathlib import Path

import torch

from common.config import ExperimentConfig, TrainerConfig, UserError
from common.engine.lifecycle import lock
from common.engine.workspace import new_run_id

SHELLS = {"bash", "sh", "zsh", "interactive"}  # names of jobs that somebody types in
# of a collective of gloo or NCCL: one process may have to work for all of them; those that are gone
# are noticed earlier, see `common.engine.lifecycle.peers`
TIMEOUT = timedelta(minutes=30)
LONGEST_PAUSE = 5.0  # seconds between two looks at the lock of a run


def is_main_process() -> bool:
    """Whether this process is the one that owns the run folder, evaluates and prints."""
    external = external_rank()
    if external is not None:
        return external == 0
    return (
        int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0
    )


def external_rank() -> int | None:
    """Rank, when torchrun or SLURM has started the processes; None otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return int(os.environ["RANK"])
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return int(os.environ["SLURM_PROCID"])
    return None


COUNTS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT")
SLURM_COUNTS = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES")


def check_launcher(trainer: TrainerConfig) -> None:
    """Refuse variables of torchrun or SLURM that contradict each other or the settings.

    Raises:
        UserError: gives the variable and what to do.
    """
    environment = os.environ
    for name in (*COUNTS, *SLURM_COUNTS):
        value = environment.get(name)
        if value is not None and not value.isdecimal():
            raise UserError(
                f"the environment has {name}={value!r}, which is no number: unset {name}"
            )
    if int(environment.get("LOCAL_RANK", "0")) and "WORLD_SIZE" not in environment:
        raise UserError(
            "the environment has LOCAL_RANK without WORLD_SIZE: unset LOCAL_RANK, or start the"
            " processes with torchrun"
        )
    is_shell = environment.get("SLURM_JOB_NAME") in SHELLS
    if "SLURM_NTASKS" not in environment or is_shell or "TORCHELASTIC_RUN_ID" in environment:
        return
    tasks, per_node = environment["SLURM_NTASKS"], environment.get("SLURM_NTASKS_PER_NODE")
    if int(tasks) > 1 and per_node is None:
        raise UserError(
            f"SLURM starts {tasks} tasks: give --ntasks-per-node=<processes of a node> instead of"
            " --ntasks; for a single process unset SLURM_NTASKS"
        )
    nodes = environment.get("SLURM_NNODES")
    for name, count, setting in (
        ("devices", per_node, trainer.devices),
        ("num_nodes", nodes, trainer.num_nodes),
    ):
        if count is not None and isinstance(setting, int) and int(count) != setting:
            raise UserError(
                f"trainer.{name}={setting}, and SLURM starts {count}: give trainer.{name}={count}"
            )


def job_run_id(cfg: ExperimentConfig) -> str | None:
    """Run id of a scheduler's job, by which a requeued job finds its run.

    A shell inside a job has the job's variables too, but its runs are new ones.
    """
    job = os.environ.get("SLURM_JOB_ID")
    batch = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in SHELLS
    if job is None or not (batch or external_rank() is not None):
        return None
    return cfg.run_id or f"slurm-{job}"


def uses_cuda(trainer: TrainerConfig) -> bool:
    """Whether a run with these settings trains on CUDA devices."""
    return trainer.accelerator in ("auto", "gpu") and torch.cuda.is_available()


def take_device(trainer: TrainerConfig) -> None:
    """Make the CUDA device that this process will train on the current one.

    The trainer does so when it begins to fit. What is encoded or generated before, on "cuda", would
    be on the first device in all processes of a machine. A process that sees one device alone,
    whatever its place, keeps that.
    """
    if not uses_cuda(trainer):
        return
    devices = trainer.devices
    place = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    index = devices[place] if isinstance(devices, list) and place < len(devices) else place
    if 0 < index < torch.cuda.device_count():  # the first one is current anyway
        torch.cuda.set_device(index)


def agreed_run_id(cfg: ExperimentConfig) -> str:
    """The same new run id in all processes: the config's, the job's, or rank 0's."""
    run_id = cfg.run_id or job_run_id(cfg)
    if run_id is not None or external_rank() is None:
        return run_id or new_run_id()
    if not torch.distributed.is_initialized():
        backend = "nccl" if uses_cuda(cfg.trainer) else "gloo"
        # the trainer takes this group over
        torch.distributed.init_process_group(backend, timeout=TIMEOUT)
    box = [new_run_id()]
    take_device(cfg.trainer)  # NCCL sends the id from the current device
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def wait_for_owner(run: Path) -> None:
    """Stay until the owner of a run, which evaluates alone after the fit, has left it.

    All processes of a machine have to take NCCL's communicators down together. A SLURM task on
    another machine than the owner's leaves at once where the file system does not share locks:
    there the lock of its own job does not count.
    """
    pause = 0.05
    while lock.held(run):
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
