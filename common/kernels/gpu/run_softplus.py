"""Triton driver of the softplus reducer (SigLIP, Hydra positives); see ``triton_pair`` for the rest.

Without a denominator the gradient of a pair is known as soon as its logit is: with an upstream
gradient of ones, values and gradients come from one sweep of 3 units (`softplus_fused`).
"""

# Shape suffixes: N queries, M keys, D dim, S column splits, B column blocks, C rows of a chunk.

import torch
from torch import Tensor

from common.kernels.core.problem import Gradients, Problem, SoftplusSums
from common.kernels.gpu.launch import (
    WORKSPACE_BYTES,
    Plan,
    grad_dtype,
    matrix,
    modules,
    on_device,
    part,
)
from common.kernels.gpu.merge import accumulate, product


def softplus_forward(problem: Problem, bias: Tensor, offset: Tensor | None) -> SoftplusSums:
    """(N,) fp32 sum_{j in A(i)} softplus(y_ij (s_ij + bias + beta_ij) + o_i), y = -1 on positives.

    Raises:
        ValueError: if `triton_pair.unsupported` gives a reason.
    """
    plan = Plan.make(problem)
    tile = plan.tile("softplus")
    splits, split_cols = plan.splits(tile, problem.num_rows)
    row_sp_SN = plan.scale.new_empty(splits, problem.num_rows)
    best_SN, pos_SN = _tops(plan, splits, problem.num_rows)
    grid = (-(-problem.num_rows // tile.rows), splits)
    with on_device(plan.q):
        modules()[1].softplus_kernel[grid](
            plan.q, plan.k, plan.scale, _float(bias), plan.row_scale, _float(offset),
            plan.program.sides, row_sp_SN, best_SN, pos_SN, problem.num_rows, problem.num_cols,
            plan.q.shape[1], plan.q.stride(0), plan.k.stride(0), problem.row_start,
            problem.col_start, split_cols, ROW_OFFSET=offset is not None, TOP=problem.top1,
            **plan.flags(tile, problem.num_rows, problem.num_cols),
        )  # fmt: skip
    return SoftplusSums(row_sp_SN.sum(0), *(_merged(x, plan) for x in (best_SN, pos_SN)))


def softplus_backward(
    problem: Problem, bias: Tensor, offset: Tensor | None, upstream: Tensor, need_q: bool,
    need_k: bool,
) -> Gradients:  # fmt: skip
    """Gradients of `softplus_forward` for upstream (N,).

    G_ij = y_ij sigma(y_ij (s_ij + bias + beta_ij) + o_i) upstream_i inside A.
    """
    return _sweep(problem, bias, offset, upstream, need_q, need_k, WORKSPACE_BYTES)[1]


def softplus_fused(
    problem: Problem, bias: Tensor, offset: Tensor | None, need_q: bool, need_k: bool
) -> tuple[SoftplusSums, Gradients]:
    """Values (N,) and, in the same sweep, the gradients of their sum."""
    return _sweep(problem, bias, offset, None, need_q, need_k, WORKSPACE_BYTES)


def _sweep(
    problem: Problem, bias: Tensor, offset: Tensor | None, upstream: Tensor | None, need_q: bool,
    need_k: bool, workspace: int,
) -> tuple[SoftplusSums, Gradients]:  # fmt: skip
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
    plan: Plan, bias: Tensor, offset: Tensor | None, up_C: Tensor, r0: int, fused: bool,
    g_CM: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
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
            plan.q[r0:r1], plan.k, plan.scale, _float(bias), part(plan.row_scale, r0, r1),
            part(_float(offset), r0, r1), plan.program.rows(r0, r1), up_C,
            partial[0], partial[1], partial[2], best_BC, pos_BC, g_CM, num_rows, num_cols,
            plan.q.shape[1], plan.q.stride(0), plan.k.stride(0), g_CM.stride(0),
            problem.row_start + r0, problem.col_start, ROW_OFFSET=offset is not None, VALUE=fused,
            TOP=fused and problem.top1,
            **plan.flags(tile, num_rows, num_cols),
        )  # fmt: skip
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
