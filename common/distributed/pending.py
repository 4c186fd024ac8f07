"""Collectives without gradient that run while something else is computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from .collectives import pad_rows
from .process import rank, world_size


@dataclass
class Pending:
    """Tensors on their way; `wait` returns the result. Nothing that was sent may change before."""

    works: list[dist.Work]
    result: Callable[[], Tensor]

    def wait(self) -> Tensor:
        """Finish the transfer."""
        for work in self.works:
            work.wait()
        return self.result()


@_disable_dynamo
def start_gather(
    x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None = None
) -> Pending:
    """Start concatenating the shards of all ranks on dimension 0.

    Args:
        x: (sizes[rank], ...), floating point or integer.
        sizes: Row counts of all ranks.
        group: Processes that share the batch.
    """
    largest = max(sizes)
    padded = pad_rows(x.detach(), largest).contiguous()
    out = padded.new_empty(world_size(group) * largest, *x.shape[1:])
    work = dist.all_gather_into_tensor(out, padded, group=group, async_op=True)

    def result() -> Tensor:
        if min(sizes) == largest:
            return out
        return torch.cat([out[r * largest :][:size] for r, size in enumerate(sizes)])

    return Pending([work], result)


@_disable_dynamo
def start_reduce(
    x: Tensor, sizes: Sequence[int], first: int, group: dist.ProcessGroup | None = None
) -> Pending:
    """Start summing rows over ranks, each part to the rank that owns it.

    Args:
        x: (sum(sizes), ...), this rank's contribution; overwritten.
        sizes: Row counts of the owners first, first + 1, ...
        first: Rank within the group that owns the first part.
        group: Processes that share the batch; all of them call.

    Returns:
        What gives the own rows; none where this rank owns no part.
    """
    parts = torch.split(x.contiguous(), list(sizes))
    works = [
        dist.reduce(part, group_dst=first + index, group=group, async_op=True)
        for index, part in enumerate(parts)
        if len(part)
    ]
    position = rank(group) - first
    return Pending(works, lambda: parts[position] if 0 <= position < len(parts) else x[:0])
