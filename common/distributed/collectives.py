"""Collectives without gradient, on tensors whose row counts may differ between ranks."""

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler here

from .process import rank, world_size


def gather_sizes(
    num_local: int, group: dist.ProcessGroup | None = None, device: torch.device | None = None
) -> list[int]:
    """Row counts of all ranks, in rank order.

    Args:
        num_local: Rows on this rank, >= 0.
        group: Processes that share the batch.
        device: Where the small exchange tensor lives; NCCL needs the CUDA device of the rank.
    """
    if world_size(group) == 1:
        return [num_local]
    counts = _gather_equal(torch.tensor([num_local], device=device or _device(group)), group)
    return [int(count) for count in counts.tolist()]


def row_offset(num_local: int, group: dist.ProcessGroup | None = None) -> int:
    """Index in the gathered batch of this rank's first row."""
    return sum(gather_sizes(num_local, group)[: rank(group)])


def _device(group: dist.ProcessGroup | None) -> torch.device:
    if dist.get_backend(group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def shard_sizes(x: Tensor, group: dist.ProcessGroup | None) -> list[int]:
    """Row counts of all ranks; refuses tensors whose rows differ between ranks."""
    shape = torch.tensor([[x.shape[0], math.prod(x.shape[1:])]], device=x.device)
    described = _gather_equal(shape, group).tolist()
    if len({width for _, width in described}) > 1:
        raise ValueError(
            "tensors gathered over ranks may differ in dimension 0 only; elements per row: "
            f"{[width for _, width in described]}"
        )
    return [int(rows) for rows, _ in described]


@_disable_dynamo
def _gather_equal(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Concatenate equally shaped tensors of all ranks on dimension 0."""
    x = x.contiguous()
    out = x.new_empty(world_size(group) * x.shape[0], *x.shape[1:])
    dist.all_gather_into_tensor(out, x, group=group)
    return out


def pad_rows(x: Tensor, num_rows: int) -> Tensor:
    """Zeros appended up to `num_rows` rows."""
    if x.shape[0] == num_rows:
        return x
    return torch.cat([x, x.new_zeros(num_rows - x.shape[0], *x.shape[1:])])


def gather_rows(x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """Concatenate shards of unequal row counts: pad to the largest, gather, cut."""
    largest = max(sizes)
    out = _gather_equal(pad_rows(x, largest), group)
    if min(sizes) == largest:
        return out
    return torch.cat([out[r * largest :][:size] for r, size in enumerate(sizes)])


def reduce_scatter_rows(
    x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None = None
) -> Tensor:
    """Sum a gathered tensor over ranks and return this rank's rows; carries no gradient.

    Args:
        x: (sum(sizes), ...), this rank's contribution to all rows.
        sizes: Row counts of all ranks.
        group: Processes that share the batch.

    Returns:
        (sizes[rank], ...).
    """
    return x if world_size(group) == 1 else sum_and_scatter(x, sizes, group)


@_disable_dynamo
def sum_and_scatter(x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None) -> Tensor:
    """`reduce_scatter_rows` on more than one rank: unequal parts are padded to the largest."""
    largest, local_rows = max(sizes), sizes[rank(group)]
    parts = torch.split(x, list(sizes))
    padded = torch.cat([pad_rows(part, largest) for part in parts])
    out = x.new_empty(largest, *x.shape[1:])
    dist.reduce_scatter_tensor(out, padded, group=group)
    return out[:local_rows]


def all_gather_no_grad(
    x: Tensor, group: dist.ProcessGroup | None = None, sizes: Sequence[int] | None = None
) -> Tensor:
    """Concatenate `x` of all ranks on dimension 0, detached: labels, ids, queues, frozen towers.

    Args:
        x: (n, ...), any dtype; `n` may differ between ranks.
        group: Processes that share the batch.
        sizes: Row counts of all ranks where known; saves one small exchange.

    Returns:
        (sum of n, ...), in rank order.

    Raises:
        ValueError: `x` is a scalar, or rows differ in size between ranks.
    """
    check_rows(x)
    if world_size(group) == 1:
        return x.detach()
    sizes = shard_sizes(x, group) if sizes is None else sizes
    if x.dtype == torch.bool:
        return gather_rows(x.detach().to(torch.uint8), sizes, group).bool()
    return gather_rows(x.detach(), sizes, group)


def check_rows(x: Tensor) -> None:
    """Refuse a scalar with ValueError."""
    if x.ndim == 0:
        raise ValueError("a scalar has no rows to gather; use all_reduce_sum, or x.unsqueeze(0)")


@_disable_dynamo
def log_sum_exp_over_ranks(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Elementwise log-sum-exp over ranks; -inf is the empty sum. Carries no gradient.

    Args:
        x: Floating point, equal shape on all ranks.
        group: Processes that share the batch.
    """
    if world_size(group) == 1:
        return x
    largest = x.detach().clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)  # noqa: TID251
    shift = torch.where(largest.isneginf(), 0.0, largest)
    total = (x.detach() - shift).exp()
    dist.all_reduce(total, group=group)  # noqa: TID251
    return total.log() + shift
