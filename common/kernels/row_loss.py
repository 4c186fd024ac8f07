"""One-sided losses whose gradient is formed in the forward (3 GEMM units), with their rows.

The sum over rows carries a ready gradient; the losses of the single rows may be differentiated as
well, at the price of another sweep. So a module can return both and training on the mean stays
cheap. What cannot be fused (dense back end, shards, tiled weights) gives None, or for softplus
sums, whose rows are the same either way, the rows alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import dispatch, ops, softplus_ops
from .arguments import flatten, make_problem, prepare
from .blocked.rows import row_values, valid_rows
from .core import reference
from .core.linear import is_symmetric, split
from .core.problem import Problem, SoftplusSums
from .sharded.plan import Group, as_sharding
from .sharded.statistics import sharded_softplus
from .specs.weights import Spec


class RowLoss(NamedTuple):
    """total: 0-dim sum. per_row: (N,). num_valid: 0-dim, rows that contribute. top1: (N,)."""

    total: Tensor
    per_row: Tensor
    num_valid: Tensor
    top1: Tensor | None


class SoftplusRows(NamedTuple):
    """total: 0-dim sum, None if not fused. per_row: (N,). num_rows: 0-dim, N. top1: (N,)."""

    total: Tensor | None
    per_row: Tensor
    num_rows: Tensor
    top1: Tensor | None


def info_nce_rows(
    q: Tensor,
    k: Tensor,
    scale: Tensor | float,
    spec: Spec,
    *,
    join: bool = False,
    group: Group = None,
    backend: str = "auto",
    **options: Any,
) -> RowLoss | None:
    """One-sided InfoNCE, row_lse - row_lin of each query.

    Args:
        q: (N, D) queries.
        k: (M, D) keys.
        scale: multiplier (inverse temperature).
        spec: positives and masks.
        join: the denominators leave the positive out (`ExcludePositive`); it is added in the loss,
            which keeps the gradient of confident rows exact.
        group: sharded problems are not fused.
        backend: as `pair_stats`.
        **options: row_scale, row_start, col_start, top1, unit_norm, deterministic, precision.

    Returns:
        The losses, 0 for rows without positive or counted pair; None if this cannot be fused.

    Raises:
        ValueError: as `pair_stats`.
    """
    if as_sharding(group) is not None:
        return None
    problem = prepare(make_problem(q, k, scale, spec, **options))
    chosen = dispatch.choose(problem, backend)
    half = q is k and is_symmetric(problem)
    if half or chosen == "dense" or split(problem.spec)[1] is not None:
        return None
    if not dispatch.tiled_module(chosen).fuses_rows(problem):
        return None
    needs = _needs_grad(q, problem.scale, problem.row_scale), _needs_grad(k)
    total, row_lse, row_lin, hit, *_ = ops.info_nce_rows_op(
        q, k, problem.scale, problem.row_scale, *flatten(problem), chosen, join, *needs
    )
    valid = valid_rows(problem, row_lse)
    per_row = torch.where(valid, row_values(row_lse, row_lin, join), 0)
    return RowLoss(total, per_row, valid.sum(), hit > 0 if problem.top1 else None)


def softplus_rows(
    q: Tensor,
    k: Tensor,
    scale: Tensor | float,
    spec: Spec,
    *,
    bias: Tensor | float = 0.0,
    row_offset: Tensor | None = None,
    fuse: bool = True,
    group: Group = None,
    backend: str = "auto",
    **options: Any,
) -> SoftplusRows:
    """Sums of softplus over the pairs of each query; arguments as `pair_softplus`, `top1`, `fuse`.

    `fuse` forms the gradient of the sum over rows in the forward, where that is possible.

    Returns:
        The sums; without `total` where no gradient is formed in the forward.

    Raises:
        ValueError: as `pair_softplus`.
    """
    problem = make_problem(q, k, scale, spec, **options)
    bias = as_bias(bias, problem)
    if row_offset is not None and row_offset.shape != (len(q),):
        raise ValueError(f"row_offset must be ({len(q)},), got {tuple(row_offset.shape)}")
    shard = as_sharding(group)
    total = None
    if shard is not None:
        module = dispatch.tiled_module(dispatch.choose(problem, backend, tiled=True))
        sums = sharded_softplus(problem, bias, row_offset, module, shard)
    else:
        problem = prepare(problem)
        chosen = dispatch.choose(problem, backend, kind="softplus")
        if chosen == "dense":
            with ops.autocast_off(q):
                sums = reference.softplus(problem, bias, row_offset)
        else:
            total, sums = _softplus(problem, bias, row_offset, chosen, fuse)
    count = q.new_full((), len(q), dtype=torch.long)  # filled on the device: no synchronisation
    return SoftplusRows(total, sums.value, count, sums.hit if problem.top1 else None)


def _softplus(
    problem: Problem, bias: Tensor, offset: Tensor | None, backend: str, fuse: bool
) -> tuple[Tensor | None, SoftplusSums]:
    """Sum over rows with its gradient ready (None unless fused), and the rows."""
    q, k = problem.q, problem.k
    tensors = q, k, problem.scale, problem.row_scale, bias, offset
    if not fuse:
        sums = softplus_ops.pair_softplus_op(*tensors, *flatten(problem), backend)
        return None, SoftplusSums(*sums)
    needs = _needs_grad(q, problem.scale, problem.row_scale, bias, offset), _needs_grad(k)
    total, *rows = softplus_ops.pair_softplus_sum_op(*tensors, *flatten(problem), backend, *needs)
    return total, SoftplusSums(*rows[:3])


def as_bias(bias: Tensor | float, problem: Problem) -> Tensor:
    """The bias as a 0-dim tensor on the device of the queries."""
    if not isinstance(bias, Tensor):
        bias = problem.q.new_full((), bias, dtype=problem.dtype)
    return bias.reshape(())


def _needs_grad(*tensors: Tensor | None) -> bool:
    needed = any(t is not None and t.requires_grad for t in tensors)
    return needed and torch.is_grad_enabled()
