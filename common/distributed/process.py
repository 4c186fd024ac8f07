"""Who this process is among the others; everything answers for one process as well."""

from typing import Any, Literal, TypeVar

import torch.distributed as dist

GradReduction = Literal["mean", "sum"]
"""What happens to parameter gradients after the backward: averaged (DDP, FSDP) or summed."""

T = TypeVar("T")


AVAILABLE = dist.is_available()  # depends on how torch was built


def is_active() -> bool:
    """Whether a default process group exists."""
    return AVAILABLE and dist.is_initialized()


def rank(group: dist.ProcessGroup | None = None) -> int:
    """Rank of this process in `group`; 0 without an initialised process group."""
    return dist.get_rank(group) if is_active() else 0


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of processes in `group`; 1 without an initialised process group."""
    return dist.get_world_size(group) if is_active() else 1


def is_rank_zero() -> bool:
    """Whether this process is the one that writes files and logs."""
    return rank() == 0


def default_group() -> dist.ProcessGroup | None:
    """The group of all processes, or None when there is only one process.

    For the functions of `kernels`, where `group=None` means "not sharded".
    """
    return dist.group.WORLD if is_active() and dist.get_world_size() > 1 else None


def barrier(group: dist.ProcessGroup | None = None) -> None:
    """Wait for all processes of `group`."""
    if world_size(group) > 1:
        dist.barrier(group)


def gather_objects(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Collect one picklable object per rank, in rank order, on every rank."""
    if world_size(group) == 1:
        return [value]
    gathered: list[Any] = [None] * world_size(group)
    dist.all_gather_object(gathered, value, group)
    return gathered


def gradient_factor(grad_reduction: GradReduction, group: dist.ProcessGroup | None = None) -> int:
    """Factor on the gradient of a global loss so that the reduction over ranks restores it.

    Args:
        grad_reduction: What happens to parameter gradients afterwards: "mean" (DDP and FSDP
            default) or "sum".
        group: Processes that share the batch.

    Returns:
        The world size for "mean", 1 for "sum".

    Raises:
        ValueError: Any other `grad_reduction`.
    """
    if grad_reduction not in ("mean", "sum"):
        raise ValueError(f"grad_reduction must be 'mean' or 'sum', got {grad_reduction!r}")
    return world_size(group) if grad_reduction == "mean" else 1
