"""Which process of a run this is, and how processes started from outside agree on a run id."""

import os

import torch

from common.config import ExperimentConfig
from common.engine.workspace import new_run_id

SHELLS = {"bash", "sh", "zsh", "interactive"}  # names of jobs that somebody types in


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


def job_run_id(cfg: ExperimentConfig) -> str | None:
    """Run id of a scheduler's job, by which a job that was started again finds its run.

    A shell inside a job has the job's variables too, but its runs are new ones.
    """
    job = os.environ.get("SLURM_JOB_ID")
    batch = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in SHELLS
    if job is None or not (batch or external_rank() is not None):
        return None
    return cfg.run_id or f"slurm-{job}"


def agreed_run_id(cfg: ExperimentConfig) -> str:
    """The same new run id in all processes: the config's, the job's, or rank 0's."""
    known = cfg.run_id or job_run_id(cfg)
    if known is not None or external_rank() is None:
        return known or new_run_id()
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    box = [new_run_id()]
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
