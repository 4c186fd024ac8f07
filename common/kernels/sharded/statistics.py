"""Pair statistics over a batch that is split over ranks: keys gathered, or travelling in a ring.

Every rank calls with its own rows and keys and gets the statistics of *its* rows and *its* columns
against the whole batch. The backward returns the gradient of `sum_r L_r`, as every collective of
`distributed`; with `L_r = rank_mean(...)` that is world size times the gradient of the
global mean, which DDP averages back. `d scale` is the local share; its mean over ranks is exact.

| mode   | forward                                   | backward                       | memory |
|--------|-------------------------------------------|--------------------------------|--------|
| gather | keys gathered, column log-sums reduced    | dk reduced to its owners       | O(N D) |
| ring   | keys travel with their column log-sums    | keys travel with col_lse, dk   | O(n D) |

Both modes compute while tensors travel (gather: see `gathered_stats`).

Keys that need no gradient (a frozen tower) cause no traffic in the backward of the gather mode and
none for dk in the ring. Whether q and k need gradients must agree between ranks. O(N) side data of
the spec (labels, ids, weights of the keys) is gathered in both modes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from ...distributed.collectives import log_sum_exp_over_ranks
from ...distributed.differentiable import all_reduce_sum, global_mean
from ...distributed.pending import Pending, start_gather, start_reduce
from ..core.linear import num_positives
from ..core.problem import (
    Gradients,
    Problem,
    RawStats,
    SoftplusSums,
    Upstream,
    merge_rows,
)
from ..ops import differentiable_once
from .plan import (
    Backend,
    Plan,
    Sharding,
    add_gradients,
    autocast_off,
    make_plan,
    ring_sum,
    scale_grad,
)

__all__ = ["reduce_rows", "sharded_info_nce", "sharded_softplus", "sharded_stats"]


@_disable_dynamo
def sharded_stats(problem: Problem, backend: Backend, sharding: Sharding) -> RawStats:
    """Statistics of the local rows and columns against the batch of all ranks; differentiable.

    Args:
        problem: Local rows, local keys and the spec between them, neither prepared nor global.
        backend: Runs one block.
        sharding: Group and mode.

    Returns:
        row_* of the local rows, col_lse of the local (or the replicated) keys.

    Raises:
        ValueError: See `globalise`.
    """
    return _stats(problem, make_plan(problem, sharding), backend)


@_disable_dynamo
def sharded_info_nce(
    problem: Problem,
    backend: Backend,
    sharding: Sharding,
    symmetric: bool,
    reduction: Literal["mean", "sum", "none"],
) -> Tensor:
    """InfoNCE of the batch of all ranks; equal on all ranks unless reduction is "none".

    Rows without positives or without any counted pair do not contribute.

    Args:
        problem: Local rows, local keys and the spec between them; `columns` if symmetric.
        backend: Runs one block.
        sharding: Group, mode, and what happens to parameter gradients afterwards.
        symmetric: Average of both directions; as many keys as queries on every rank.
        reduction: "mean" over the contributing rows of all ranks, their "sum", or "none" for the
            local (n,), 0 where a row does not contribute.
    """
    plan = make_plan(problem, sharding)
    stats = _stats(problem, plan, backend)
    per_row, valid = stats.row_lse - stats.row_lin, ~stats.row_lse.isneginf()
    if symmetric:
        per_row = 0.5 * (stats.row_lse + stats.col_lse) - stats.row_lin
        valid &= ~stats.col_lse.isneginf()
    count = num_positives(plan.problem.spec, plan.whole_tile())
    if count is not None:
        valid &= count > 0
    return reduce_rows(torch.where(valid, per_row, 0), valid.sum(), sharding, reduction)


def reduce_rows(
    per_row: Tensor, count: Tensor, sharding: Sharding, reduction: Literal["mean", "sum", "none"]
) -> Tensor:
    """Mean or sum over the rows of all ranks, equal on all ranks; see `global_mean`.

    Args:
        per_row: (n,), 0 where a row does not count.
        count: 0-dim, how many local rows count.
        sharding: Group and what happens to parameter gradients afterwards.
        reduction: "none" returns `per_row`.
    """
    if reduction == "none":
        return per_row
    total = all_reduce_sum(count, sharding.group).clamp(min=1)
    divisor = total if reduction == "mean" else torch.ones_like(total)
    return global_mean(per_row, sharding.group, sharding.grad_reduction, divisor)


# --- statistics ---------------------------------------------------------------------------------


def _stats(problem: Problem, plan: Plan, backend: Backend) -> RawStats:
    inputs = problem.q, problem.k, problem.scale, problem.row_scale
    with autocast_off(problem.q):
        outputs: tuple[Tensor, ...] = _Stats.apply(*inputs, plan, backend)  # type: ignore[no-untyped-call]
    none = problem.q.new_empty(0)
    return RawStats(*(*outputs, none, none))


class _Stats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        scale: Tensor,
        row_scale: Tensor | None,
        plan: Plan,
        backend: Backend,
    ) -> tuple[Tensor, ...]:
        ctx.plan, ctx.backend = plan, backend
        local = plan.bound(q, k, scale, row_scale)
        if plan.ring:
            stats, keys = _ring_stats(plan, local, backend), k
        else:
            stats, keys = gathered_stats(plan, local, backend)
        ctx.save_for_backward(q, k, keys, scale, row_scale, *stats)
        ctx.mark_non_differentiable(stats.row_best, stats.row_hit)
        own_columns = stats.col_lse if plan.ring else plan.own(stats.col_lse)
        return (
            stats.row_lse,
            own_columns,
            stats.row_lin,
            stats.row_mom,
            stats.row_best,
            stats.row_hit,
        )

    @staticmethod
    def backward(
        ctx: Any, a: Tensor, b: Tensor, c: Tensor, e: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        q, k, keys, scale, row_scale, *saved = ctx.saved_tensors
        stats, whole = RawStats(*saved), plan.bound(q, keys, scale, row_scale)
        need_q, need_k, need_scale, need_row_scale = ctx.needs_input_grad[:4]
        need_dots = need_scale or need_row_scale  # come with dq
        upstream = Upstream(a, b if whole.columns else None, c, e if whole.moment else None)
        if upstream.b is not None and not plan.ring:
            upstream = upstream._replace(b=_column_upstream(plan, upstream.b))
        with autocast_off(q):
            grads = _gradients(
                plan, whole, stats, upstream, ctx.backend, need_q or need_dots, need_k
            )
        gradients = (
            grads.dq.to(q.dtype) if need_q else None,
            grads.dk.to(keys.dtype) if need_k else None,
            scale_grad(grads.row_dot, whole) if need_scale else None,
            (scale * grads.row_dot).to(row_scale.dtype) if need_row_scale else None,
        )
        return *differentiable_once((q, k, scale, row_scale), gradients), None, None


def _ring_stats(plan: Plan, whole: Problem, backend: Backend) -> RawStats:
    parts: list[RawStats] = []

    def visit(owner: int, fixed: Sequence[Tensor], running: Sequence[Tensor]) -> Sequence[Tensor]:
        stats = backend.forward(plan.block(whole, fixed[0], owner))
        columns = [torch.logaddexp(x, stats.col_lse) for x in running]
        stats = stats._replace(col_lse=stats.col_lse[:0])
        parts[:] = [merge(parts[0], stats) if parts else stats]
        return columns

    empty = whole.k.new_full((whole.num_cols,), -torch.inf, dtype=whole.dtype)
    columns = plan.travel([whole.k], [empty] if whole.columns else [], visit)
    return parts[0]._replace(col_lse=columns[0]) if columns else parts[0]


def _column_upstream(plan: Plan, b: Tensor) -> Tensor:
    """Gradient for all columns: each belongs to its owner, or is shared by all ranks."""
    if not plan.shards.replicated:
        return plan.fetch(b)
    return all_reduce_sum(b, plan.group)


def _gradients(
    plan: Plan,
    whole: Problem,
    stats: RawStats,
    upstream: Upstream,
    backend: Backend,
    need_q: bool,
    need_k: bool,
) -> Gradients:
    columns = [] if upstream.b is None else [stats.col_lse, upstream.b]

    def block_gradients(block: Problem, extra: Sequence[Tensor]) -> Gradients:
        final, above = stats, upstream
        if extra:
            final, above = stats._replace(col_lse=extra[0]), upstream._replace(b=extra[1])
        return backend.backward(block, final, above, need_q, need_k)

    collect = ring_sum if plan.ring else gathered_sum
    return collect(plan, whole, columns, block_gradients, need_k)


# --- gather mode ----------------------------------------------------------------------------------
#
# Forward: while the keys are gathered, the rows meet the own keys; then those of the ranks before
# and after. Backward: dk is formed piece by piece, and a piece is on its way to its owners while
# the next is formed. Every rank forms the pieces in the same order, so that the collectives match.

_PIECES = 8  # at most so many pieces of dk, whatever the number of ranks


def gathered_stats(plan: Plan, local: Problem, backend: Backend) -> tuple[RawStats, Tensor]:
    """Statistics of the local rows against the keys of all ranks, and those keys.

    Args:
        plan: Where the shards lie.
        local: The local rows against the local keys.
        backend: Runs one block.
    """
    if plan.overlaps:
        stats, keys = _overlapped(plan, local, backend)
    else:
        keys = plan.fetch(local.k)
        stats = backend.forward(replace(local, k=keys))
    if local.columns:
        stats = stats._replace(col_lse=log_sum_exp_over_ranks(stats.col_lse, plan.group))
    return stats, keys


def _overlapped(plan: Plan, local: Problem, backend: Backend) -> tuple[RawStats, Tensor]:
    pending = start_gather(local.k, plan.shards.keys, plan.group)
    start, stop = plan.shards.columns(plan.shards.rank)
    stats = backend.forward(plan.part(local, local.k, start, stop))
    keys = pending.wait()
    if start:
        stats = merge(backend.forward(plan.part(local, keys[:start], 0, start)), stats)
    if stop < len(keys):
        stats = merge(stats, backend.forward(plan.part(local, keys[stop:], stop, len(keys))))
    return stats._replace(kept=stats.kept.new_empty(0)), keys


def merge(left: RawStats, right: RawStats) -> RawStats:
    """`merge_rows`; if the fixed shift failed (NaN) on one block, no block uses it."""
    return merge_rows(left, right)._replace(shift=left.shift + 0 * right.shift)


def gathered_softplus(
    plan: Plan, local: Problem, sums: Callable[[Problem], SoftplusSums]
) -> tuple[SoftplusSums, Tensor]:
    """Softplus sums of the local rows against the keys of all ranks, and those keys."""
    if not plan.overlaps:
        keys = plan.fetch(local.k)
        return sums(replace(local, k=keys)), keys
    pending = start_gather(local.k, plan.shards.keys, plan.group)
    start, stop = plan.shards.columns(plan.shards.rank)
    total = sums(plan.part(local, local.k, start, stop))
    keys = pending.wait()
    for first, last in ((0, start), (stop, len(keys))):
        if first < last:
            total = total.join(sums(plan.part(local, keys[first:last], first, last)))
    return total, keys


def gathered_sum(
    plan: Plan,
    whole: Problem,
    columns: Sequence[Tensor],
    block_gradients: Callable[[Problem, Sequence[Tensor]], Gradients],
    need_k: bool,
) -> Gradients:
    """Gradients of all blocks; dk summed over ranks, own rows. Arguments as `ring_sum`."""
    if not (need_k and plan.overlaps):
        grads = block_gradients(whole, columns)
        return grads._replace(dk=plan.scatter(grads.dk) if need_k else grads.dk)
    sizes, total, pending = plan.shards.keys, None, []
    step = -(-len(sizes) // _PIECES)
    for first in range(0, len(sizes), step):
        owners = sizes[first : first + step]
        start = sum(sizes[:first])
        stop = start + sum(owners)
        if start == stop:
            continue
        block = plan.part(whole, whole.k[start:stop], start, stop)
        grads = block_gradients(block, [x[start:stop] for x in columns])
        pending.append(start_reduce(grads.dk, owners, first, plan.group))
        total = grads if total is None else add_gradients(total, grads)
    assert total is not None
    return total._replace(dk=_own_rows(pending))


def _own_rows(pending: Sequence[Pending]) -> Tensor:
    parts = [work.wait() for work in pending]
    return next((part for part in parts if len(part)), parts[0])


# --- softplus sums (SigLIP, positives of Hydra) ---------------------------------------------------


@_disable_dynamo
def sharded_softplus(
    problem: Problem, bias: Tensor, offset: Tensor | None, backend: Backend, sharding: Sharding
) -> SoftplusSums:
    """Softplus sums of the local rows against the keys of all ranks; differentiable.

    Args:
        problem: As `sharded_stats`.
        bias: 0-dim, added to all logits.
        offset: (n,) added per row outside the sign, or None.
        backend: Runs one block.
        sharding: Group and mode.

    Returns:
        The sums (n,), and the largest logits if the problem wants them.
    """
    plan = make_plan(problem, sharding)
    inputs = problem.q, problem.k, problem.scale, problem.row_scale, bias, offset
    with autocast_off(problem.q):
        parts = _Softplus.apply(*inputs, plan, backend)  # type: ignore[no-untyped-call]
    return SoftplusSums(*parts)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        scale: Tensor,
        row_scale: Tensor | None,
        bias: Tensor,
        offset: Tensor | None,
        plan: Plan,
        backend: Backend,
    ) -> SoftplusSums:
        ctx.plan, ctx.backend = plan, backend
        whole = plan.bound(q, k, scale, row_scale)
        parts: list[SoftplusSums] = []
        keys = k
        if plan.ring:

            def visit(owner: int, fixed: Sequence[Tensor], _: Sequence[Tensor]) -> Sequence[Tensor]:
                block = plan.block(whole, fixed[0], owner)
                parts.append(backend.softplus_forward(block, bias, offset))
                return []

            plan.travel([whole.k], [], visit)
        else:
            total, keys = gathered_softplus(
                plan, whole, lambda block: backend.softplus_forward(block, bias, offset)
            )
            parts.append(total)
        ctx.save_for_backward(q, k, keys, scale, row_scale, bias, offset)
        sums = reduce(SoftplusSums.join, parts)
        ctx.mark_non_differentiable(sums.best, sums.positive)
        return sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        q, k, keys, scale, row_scale, bias, offset = ctx.saved_tensors
        whole = plan.bound(q, keys, scale, row_scale)
        need_q, need_k, *need = ctx.needs_input_grad[:6]
        need_dq = need_q or any(need)  # row sums come with dq
        backend: Backend = ctx.backend

        def block_gradients(block: Problem, _: Sequence[Tensor]) -> Gradients:
            return backend.softplus_backward(block, bias, offset, upstream, need_dq, need_k)

        with autocast_off(q):
            collect = ring_sum if plan.ring else gathered_sum
            grads = collect(plan, whole, [], block_gradients, need_k)
        assert grads.row_sum is not None
        gradients = (
            grads.dq.to(q.dtype) if need_q else None,
            grads.dk.to(keys.dtype) if need_k else None,
            scale_grad(grads.row_dot, whole) if need[0] else None,
            (scale * grads.row_dot).to(row_scale.dtype) if need[1] else None,
            grads.row_sum.sum().to(bias.dtype) if need[2] else None,
            grads.d_offset.to(offset.dtype) if need[3] and grads.d_offset is not None else None,
        )
        inputs = (q, k, scale, row_scale, bias, offset)
        return *differentiable_once(inputs, gradients), None, None
