"""Collectives with gradient, and the mean over rows of all ranks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.function import FunctionCtx

from .collectives import (
    check_rows,
    gather_rows,
    gather_sizes,
    shard_sizes,
    sum_and_scatter,
)
from .process import GradReduction, gradient_factor, world_size


class _AllGather(torch.autograd.Function):
    """Concatenation over ranks; the backward sums over ranks and keeps the own rows."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.sizes, ctx.group = sizes, group  # type: ignore[attr-defined]
        return gather_rows(x, sizes, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _ReduceScatter.apply(grad, ctx.sizes, ctx.group), None, None  # type: ignore[no-untyped-call]


class _ReduceScatter(torch.autograd.Function):
    """Sum over ranks, own rows; the backward concatenates over ranks."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        ctx.sizes, ctx.group = sizes, group  # type: ignore[attr-defined]
        return sum_and_scatter(x, sizes, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _AllGather.apply(grad, ctx.sizes, ctx.group), None, None  # type: ignore[no-untyped-call]


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; the backward sums over ranks as well."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group  # type: ignore[attr-defined]
        out = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out, group=group)  # noqa: TID251
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grad, ctx.group), None  # type: ignore[no-untyped-call]


def all_gather_with_grad(
    x: Tensor, group: dist.ProcessGroup | None = None, sizes: Sequence[int] | None = None
) -> Tensor:
    """Concatenate `x` of all ranks on dimension 0; gradients return to the rank that owns the row.

    Gather one tensor per role (anchors, positives, each set of negatives), never a concatenation of
    roles: `[P0, N0, P1, N1]` is not `[P0, P1, N0, N1]`, and the diagonal would be mislabelled.

    The backward is a collective: every rank must back-propagate through it, or none.

    Args:
        x: (n, ...), floating point; `n` may differ between ranks and may be 0.
        group: Processes that share the batch.
        sizes: Row counts of all ranks where known; saves one small exchange.

    Returns:
        (sum of n, ...), in rank order. Its gradient is summed over ranks.

    Raises:
        ValueError: `x` is a scalar, or rows differ in size between ranks.
    """
    check_rows(x)
    return x if world_size(group) == 1 else _differentiable_gather(x, sizes, group)


# Traced by torch.compile, a collective inside an autograd.Function loses its backward without a
# word (torch 2.11: zero gradients); so the compiler breaks its graph around these two.
@_disable_dynamo
def _differentiable_gather(
    x: Tensor, sizes: Sequence[int] | None, group: dist.ProcessGroup | None
) -> Tensor:
    sizes = shard_sizes(x, group) if sizes is None else sizes
    gathered: Tensor = _AllGather.apply(x, tuple(sizes), group)  # type: ignore[no-untyped-call]
    return gathered


@_disable_dynamo
def _differentiable_sum(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    total: Tensor = _AllReduceSum.apply(x, group)  # type: ignore[no-untyped-call]
    return total


def all_reduce_sum(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum of `x` over ranks, out of place; its gradient is summed over ranks.

    Args:
        x: Any shape, equal on all ranks.
        group: Processes that share the batch.
    """
    return x if world_size(group) == 1 else _differentiable_sum(x, group)


def all_reduce_mean(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Mean of `x` over ranks, out of place; its gradient is the mean over ranks.

    Ranks count equally. For a mean over rows of unequal shards, reduce sums and counts.
    """
    return all_reduce_sum(x, group) / world_size(group)


def rank_mean(
    per_row: Tensor,
    group: dist.ProcessGroup | None = None,
    grad_reduction: GradReduction = "mean",
    num_rows: int | Tensor | None = None,
) -> Tensor:
    """This rank's share of a mean over the rows of all ranks: its loss, ready for DDP.

    `L_r = F / N * sum_i per_row_i` with the gradient factor F and the global row count N; the mean
    (or sum) of `L_r` over ranks is the mean over all rows. With equal shards and "mean" this is the
    plain local mean.

    Args:
        per_row: (n,), values of this rank's rows; `n` may differ between ranks and may be 0.
        group: Processes that share the batch.
        grad_reduction: See `gradient_factor`.
        num_rows: Divisor instead of the global row count; saves one small exchange.

    Returns:
        Scalar; differs between ranks.
    """
    if num_rows is None:
        num_rows = sum(gather_sizes(per_row.shape[0], group, per_row.device))
    return per_row.sum() * gradient_factor(grad_reduction, group) / num_rows


def rank_mean_of_sums(
    total: Tensor, count: Tensor, group: dist.ProcessGroup | None = None
) -> Tensor:
    """As `rank_mean` of items that were summed before; 0 if no rank has an item.

    Args:
        total: sum over the local items, with gradient.
        count: number of local items.
        group: Processes that share the batch.
    """
    return total * (world_size(group) / all_reduce_sum(count.detach(), group).clamp(min=1))


def global_mean(
    per_row: Tensor,
    group: dist.ProcessGroup | None = None,
    grad_reduction: GradReduction = "mean",
    num_rows: int | Tensor | None = None,
) -> Tensor:
    """Mean over the rows of all ranks, equal on all ranks; its gradient is that of `rank_mean`.

    Args:
        per_row: (n,), values of this rank's rows; `n` may differ between ranks and may be 0.
        group: Processes that share the batch.
        grad_reduction: See `gradient_factor`.
        num_rows: Divisor instead of the global row count; saves one small exchange.
    """
    share = rank_mean(per_row, group, grad_reduction, num_rows)
    if world_size(group) == 1:
        return share
    value = all_reduce_sum(share.detach(), group) / gradient_factor(grad_reduction, group)
    replaced: Tensor = _ReplaceValue.apply(share, value)  # type: ignore[no-untyped-call]
    return replaced


class _ReplaceValue(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
