"""The Triton back end: the functions that `problem` lists, and the shapes of what it keeps.

`run_pairs` drives the losses with a partition function; the one-sided ones and the softplus sums
are here.
"""

# Shape suffixes: N queries, M keys, D dim, S column splits, B column blocks, C rows of a chunk.

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..blocked.rows import row_weights, valid_rows
from ..core.linear import linear_backward, num_positives, split
from ..core.problem import Gradients, Problem, RawStats, SoftplusSums
from ..specs.base import Spec
from ..specs.weights import Diagonal, Index, Partner
from . import run_pairs
from .launch import (
    WORKSPACE_BYTES,
    Plan,
    dense_products,
    fixed_shift,
    grad_dtype,
    kept_dtype,
    matrix,
    modules,
    on_device,
    part,
    unsupported,
)
from .run_pairs import (
    accumulate,
    finish_rows,
    kept_shapes,
    lse_chunk,
    merge_splits,
    product,
)

__all__ = [
    "backward",
    "forward",
    "fuses_rows",
    "info_nce_rows",
    "kept_shapes",
    "softplus_backward",
    "softplus_forward",
    "softplus_fused",
    "unsupported",
]

P = ParamSpec("P")
R = TypeVar("R")


def _rounded(run: Callable[Concatenate[Problem, P], R]) -> Callable[Concatenate[Problem, P], R]:
    """The same with the library's products at the problem's precision."""

    @wraps(run)
    def at_precision(problem: Problem, *args: P.args, **kwargs: P.kwargs) -> R:
        with dense_products(problem):
            return run(problem, *args, **kwargs)

    return at_precision  # type: ignore[return-value]  # the name of the first argument


forward = _rounded(run_pairs.forward)
backward = _rounded(run_pairs.backward)


# --- one-sided InfoNCE ---------------------------------------------------------------------------
#
# With the gradients formed in the forward: 3 GEMM units. `lse_kernel` stores the exponentials of a
# row chunk in the workspace; once their row sums Z are known the two dense products follow at once,
# dq = (E k) / Z and dk += E^T (q / Z). The positives are left out of 16-bit tiles: their part P_ip
# - omega_ip is a pair term in fp32 (see `linear`).


def fuses_rows(problem: Problem) -> bool:
    """Whether `info_nce_rows` can run: a fixed shift, and tiles that may hold the exponentials.

    With 16-bit inputs a row may have one positive only (Diagonal, Index, Partner).
    """
    return fixed_shift(problem) and kept_dtype(problem) == grad_dtype(problem)


@_rounded
def info_nce_rows(
    problem: Problem,
    need_q: bool,
    need_k: bool,
    join: bool = False,
    workspace: int = WORKSPACE_BYTES,
) -> tuple[RawStats, Gradients]:
    """Row statistics and the gradients of the sum of `row_values` over valid rows.

    Args:
        problem: a problem for which `fuses_rows` holds; all weights have closed forms.
        need_q: whether dq (also for the scales) is wanted.
        need_k: whether dk is wanted.
        join: see `row_values`.
        workspace: bytes for the exponentials of a row chunk.
    """
    plan, dtype = Plan.make(problem), kept_dtype(problem)
    q_ND, k_MD = plan.q.to(dtype), plan.k.to(dtype)
    dq_ND = plan.scale.new_zeros(plan.q.shape) if need_q else None
    dk_MD = plan.scale.new_zeros(plan.k.shape) if need_k else None
    count = num_positives(problem.spec, problem.whole())
    counted = torch.ones_like(plan.q[:, 0], dtype=torch.float32)
    counted = counted if count is None else (count > 0).to(torch.float32)
    linear = plan.linear()  # weights that are not in tiles
    extra = plan.scale.new_zeros(problem.num_rows) if linear is None else linear * plan.scale
    parts: list[dict[str, Tensor]] = []
    chunks = plan.chunks(plan.tile("rows"), float(problem.num_cols * dtype.itemsize), workspace)
    buffer = plan.workspace(chunks, dtype) if need_q or need_k else None
    for r0, r1 in chunks:
        e_CM = None if buffer is None else matrix(buffer, r1 - r0, problem.num_cols)
        rows = merge_splits(lse_chunk(plan, r0, r1, False, e_CM)[0])
        parts.append(rows)
        if e_CM is None:
            continue
        inverse_C1 = _inverse(plan, rows, extra[r0:r1], counted[r0:r1], join)[:, None]
        if dq_ND is not None:
            product(e_CM, k_MD, dq_ND[r0:r1])
            dq_ND[r0:r1] *= inverse_C1
        if dk_MD is not None:
            accumulate(dk_MD, e_CM, (q_ND[r0:r1] * inverse_C1).to(dtype))
    pos = [p.pop("pos") for p in parts if "pos" in p]
    row = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    stats = finish_rows(plan, row)
    valid_N = valid_rows(problem, stats.row_lse).to(torch.float32) + _nan(stats.row_lse)
    valid_N = valid_N * row_weights(stats.row_lse, stats.row_lin, join)
    share = torch.cat(pos) * _inverse(plan, row, extra, counted, join) if pos else None
    _linear(problem, valid_N, share, dq_ND, dk_MD)
    dq, dk, row_dot = plan.scaled(dq_ND, dk_MD, torch.ones_like(plan.scale))
    return stats, Gradients(dq, dk, row_dot)


def _linear(
    problem: Problem, valid_N: Tensor, share_N: Tensor | None, dq: Tensor | None, dk: Tensor | None
) -> None:
    """Add -omega k (and, where the tiles lack it, P_ip k of the positive) to the accumulators."""
    atoms = split(problem.spec)[0]
    if share_N is not None:
        mark = next(a for a in atoms if isinstance(a, Diagonal | Index | Partner))
        weight = 1.0 if isinstance(mark, Partner) else mark.weight
        ones: Spec = mark if isinstance(mark, Partner) else replace(mark, weight=1.0)
        linear_backward([ones], problem, share_N - weight * valid_N, dq, dk, 1.0)
        atoms = [a for a in atoms if a is not mark]
    linear_backward(atoms, problem, -valid_N, dq, dk, 1.0)


def _inverse(
    plan: Plan, row: dict[str, Tensor], extra: Tensor, counted: Tensor, join: bool
) -> Tensor:
    """Weight / Z of the rows that contribute, else 0."""
    total = row["sum"]
    row_lin = row["lin"] + extra if "lin" in row else extra
    weight = counted * row_weights(total.log() + plan.shift, row_lin, join)
    return torch.where(total > 0, weight / total, 0.0)


def _nan(row_lse: Tensor) -> Tensor:
    """NaN where the statistics gave up, else 0: gradients must not look right then."""
    return torch.where(row_lse.isnan(), torch.nan, 0.0)


# --- softplus sums -------------------------------------------------------------------------------
#
# SigLIP, positives of Hydra. Without a denominator the gradient of a pair is known as soon as its
# logit is: with an upstream gradient of ones, values and gradients come from one sweep of 3 units
# (`softplus_fused`).


@_rounded
def softplus_forward(problem: Problem, bias: Tensor, offset: Tensor | None) -> SoftplusSums:
    """(N,) fp32 sum_{j in A(i)} softplus(y_ij (s_ij + bias + beta_ij) + o_i), y = -1 on positives.

    Raises:
        ValueError: if `unsupported` gives a reason.
    """
    plan = Plan.make(problem)
    tile = plan.tile("softplus")
    splits, split_cols = plan.splits(tile, problem.num_rows)
    row_sp_SN = plan.scale.new_empty(splits, problem.num_rows)
    best_SN, pos_SN = _tops(plan, splits, problem.num_rows)
    grid = (-(-problem.num_rows // tile.rows), splits)
    with on_device(plan.q):
        modules()[1].softplus_kernel[grid](
            plan.q,
            plan.k,
            plan.scale,
            _float(bias),
            plan.row_scale,
            _float(offset),
            plan.program.sides,
            row_sp_SN,
            best_SN,
            pos_SN,
            problem.num_rows,
            problem.num_cols,
            plan.q.shape[1],
            plan.q.stride(0),
            plan.k.stride(0),
            problem.row_start,
            problem.col_start,
            split_cols,
            ROW_OFFSET=offset is not None,
            TOP=problem.top1,
            **plan.flags(tile, problem.num_rows, problem.num_cols),
        )
    return SoftplusSums(row_sp_SN.sum(0), *(_merged(x, plan) for x in (best_SN, pos_SN)))


@_rounded
def softplus_backward(
    problem: Problem,
    bias: Tensor,
    offset: Tensor | None,
    upstream: Tensor,
    need_q: bool,
    need_k: bool,
) -> Gradients:
    """Gradients of `softplus_forward` for upstream (N,).

    G_ij = y_ij sigma(y_ij (s_ij + bias + beta_ij) + o_i) upstream_i inside A.
    """
    return _sweep(problem, bias, offset, upstream, need_q, need_k, WORKSPACE_BYTES)[1]


@_rounded
def softplus_fused(
    problem: Problem, bias: Tensor, offset: Tensor | None, need_q: bool, need_k: bool
) -> tuple[SoftplusSums, Gradients]:
    """Values (N,) and, in the same sweep, the gradients of their sum."""
    return _sweep(problem, bias, offset, None, need_q, need_k, WORKSPACE_BYTES)


def _sweep(
    problem: Problem,
    bias: Tensor,
    offset: Tensor | None,
    upstream: Tensor | None,
    need_q: bool,
    need_k: bool,
    workspace: int,
) -> tuple[SoftplusSums, Gradients]:
    plan = Plan.make(problem)
    fused = upstream is None
    up_N = torch.ones_like(plan.q[:, 0], dtype=torch.float32)
    up_N = up_N if upstream is None else up_N * upstream.detach().to(torch.float32)
    unit = up_N.abs().amax()
    unit = torch.where((unit > 0) & unit.isfinite(), unit, 1.0)
    dtype = grad_dtype(problem)
    q_ND, k_MD = plan.q.to(dtype), plan.k.to(dtype)
    dq_ND = plan.scale.new_zeros(plan.q.shape) if need_q else None
    dk_MD = plan.scale.new_zeros(plan.k.shape) if need_k else None
    tile = plan.tile("softplus_grad")
    sums: list[tuple[Tensor, Tensor, Tensor]] = []
    chunks = plan.chunks(tile, float(problem.num_cols * dtype.itemsize), workspace)
    buffer = plan.workspace(chunks, dtype)
    for r0, r1 in chunks:
        g_CM = matrix(buffer, r1 - r0, problem.num_cols)
        scaled_N = (up_N[r0:r1] / unit).contiguous()
        sums.append(_chunk(plan, bias, offset, scaled_N, r0, fused, g_CM))
        if dq_ND is not None:
            product(g_CM, k_MD, dq_ND[r0:r1])
        if dk_MD is not None:
            rho = part(plan.row_scale, r0, r1)
            rows_CD = q_ND[r0:r1] if rho is None else (q_ND[r0:r1] * rho[:, None]).to(dtype)
            accumulate(dk_MD, g_CM, rows_CD)
    totals, best_N, pos_N = (torch.cat(parts, dim=-1) for parts in zip(*sums, strict=True))
    value_N, sum_N, sigma_N = totals.unbind()
    dq, dk, row_dot = plan.scaled(dq_ND, dk_MD, unit)
    rows = SoftplusSums(value_N, best_N, pos_N)
    return rows, Gradients(dq, dk, row_dot, sum_N * up_N, sigma_N * up_N)


def _chunk(
    plan: Plan,
    bias: Tensor,
    offset: Tensor | None,
    up_C: Tensor,
    r0: int,
    fused: bool,
    g_CM: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch `softplus_grad_kernel` for the rows from r0.

    Returns:
        (3, C) sums of softplus, y*sigma, sigma; (C,) largest logits: of all, of the positives.
    """
    problem, tile = plan.problem, plan.tile("softplus_grad")
    num_rows, num_cols = g_CM.shape
    r1 = r0 + num_rows
    grid = (-(-num_rows // tile.rows), -(-num_cols // tile.cols))
    partial = plan.scale.new_zeros(3, grid[1], num_rows)
    best_BC, pos_BC = _tops(plan, grid[1], num_rows)
    with on_device(plan.q):
        modules()[1].softplus_grad_kernel[grid](
            plan.q[r0:r1],
            plan.k,
            plan.scale,
            _float(bias),
            part(plan.row_scale, r0, r1),
            part(_float(offset), r0, r1),
            plan.program.rows(r0, r1),
            up_C,
            partial[0],
            partial[1],
            partial[2],
            best_BC,
            pos_BC,
            g_CM,
            num_rows,
            num_cols,
            plan.q.shape[1],
            plan.q.stride(0),
            plan.k.stride(0),
            g_CM.stride(0),
            problem.row_start + r0,
            problem.col_start,
            ROW_OFFSET=offset is not None,
            VALUE=fused,
            TOP=fused and problem.top1,
            **plan.flags(tile, num_rows, num_cols),
        )
    return partial.sum(1), _merged(best_BC, plan), _merged(pos_BC, plan)


def _tops(plan: Plan, parts: int, num_rows: int) -> tuple[Tensor, Tensor]:
    """Storage for the largest logits of the parts of a row; one element where not wanted."""
    shape = (parts, num_rows) if plan.problem.top1 else (1, 1)
    best, positive = (plan.scale.new_full(shape, -torch.inf) for _ in range(2))
    return best, positive


def _merged(parts: Tensor, plan: Plan) -> Tensor:
    return parts.amax(0) if plan.problem.top1 else parts.new_empty(0)


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().to(torch.float32).contiguous()
