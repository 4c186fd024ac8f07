"""Gather mode with communication behind the sweep.

Forward: while the keys are gathered, the rows meet the own keys; then those of the ranks before and
after. Backward: dk is formed piece by piece, and a piece is on its way to its owners while the next
is formed. Every rank forms the pieces in the same order, so that the collectives match.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from common.distributed.collectives import log_sum_exp_over_ranks
from common.distributed.pending import Pending, start_gather, start_reduce
from common.kernels.core.problem import Gradients, Problem, RawStats, SoftplusSums, merge_rows
from common.kernels.sharded.plan import Backend, Plan, add_gradients

_PIECES = 8  # at most so many pieces of dk, whatever the number of ranks


def gathered_stats(plan: Plan, own: Problem, backend: Backend) -> tuple[RawStats, Tensor]:
    """Statistics of the local rows against the keys of all ranks, and those keys.

    Args:
        plan: Where the shards lie.
        own: The local rows against the local keys.
        backend: Runs one block.
    """
    if plan.overlaps:
        stats, keys = _overlapped(plan, own, backend)
    else:
        keys = plan.fetch(own.k)
        stats = backend.forward(replace(own, k=keys))
    if own.columns:
        stats = stats._replace(col_lse=log_sum_exp_over_ranks(stats.col_lse, plan.group))
    return stats, keys


def _overlapped(plan: Plan, own: Problem, backend: Backend) -> tuple[RawStats, Tensor]:
    pending = start_gather(own.k, plan.shards.keys, plan.group)
    start, stop = plan.shards.columns(plan.shards.rank)
    stats = backend.forward(plan.part(own, own.k, start, stop))
    keys = pending.wait()
    if start:
        stats = merge(backend.forward(plan.part(own, keys[:start], 0, start)), stats)
    if stop < len(keys):
        stats = merge(stats, backend.forward(plan.part(own, keys[stop:], stop, len(keys))))
    return stats._replace(kept=stats.kept.new_empty(0)), keys


def merge(left: RawStats, right: RawStats) -> RawStats:
    """`merge_rows`; if the fixed shift failed (NaN) on one block, no block uses it."""
    return merge_rows(left, right)._replace(shift=left.shift + 0 * right.shift)


def gathered_softplus(
    plan: Plan, own: Problem, sums: Callable[[Problem], SoftplusSums]
) -> tuple[SoftplusSums, Tensor]:
    """Softplus sums of the local rows against the keys of all ranks, and those keys."""
    if not plan.overlaps:
        keys = plan.fetch(own.k)
        return sums(replace(own, k=keys)), keys
    pending = start_gather(own.k, plan.shards.keys, plan.group)
    start, stop = plan.shards.columns(plan.shards.rank)
    total = sums(plan.part(own, own.k, start, stop))
    keys = pending.wait()
    for first, last in ((0, start), (stop, len(keys))):
        if first < last:
            total = total.join(sums(plan.part(own, keys[first:last], first, last)))
    return total, keys


def gathered_sum(
    plan: Plan,
    whole: Problem,
    columns: Sequence[Tensor],
    block_gradients: Callable[[Problem, Sequence[Tensor]], Gradients],
    need_k: bool,
) -> Gradients:
    """Gradients of all blocks; dk summed over ranks, own rows. Arguments as `sharding.ring_sum`."""
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
