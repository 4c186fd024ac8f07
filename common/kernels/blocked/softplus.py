"""Blocked softplus reducer (SigLIP, positives of Hydra): no denominator, one sweep of 3 units."""

# Shape suffixes: N queries, M keys, D dim, R rows of a tile, C columns of a tile.

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.problem import Gradients, Problem, SoftplusSums
from ..specs.weights import Tile
from .tiling import Sweep, TopOne, view


def softplus_forward(problem: Problem, bias: Tensor, offset: Tensor | None) -> SoftplusSums:
    """(N,) sum_{j in A(i)} softplus(y_ij (s_ij + bias + beta_ij) + o_i), y = -1 on positives."""
    sweep, top = Sweep(problem), TopOne(problem)
    out_N = sweep.q_ND.new_zeros(problem.num_rows)
    buffer = sweep.buffer()
    for tile, q_RD in sweep.tiles():
        x_RC, mask_RC, _ = _signed_logits(sweep, tile, q_RD, buffer, bias, offset, top)
        out_N[tile.r0 : tile.r1] += _masked_sum(F.softplus(x_RC, threshold=50.0), mask_RC)
    return SoftplusSums(out_N, top.best, top.positive)


def softplus_backward(
    problem: Problem,
    bias: Tensor,
    offset: Tensor | None,
    upstream: Tensor,
    need_q: bool,
    need_k: bool,
) -> Gradients:
    """Gradients of `softplus_forward` for upstream (N,)."""
    return _softplus_gradients(problem, bias, offset, upstream, need_q, need_k)[1]


def softplus_fused(
    problem: Problem, bias: Tensor, offset: Tensor | None, need_q: bool, need_k: bool
) -> tuple[SoftplusSums, Gradients]:
    """Values and the gradients of their sum in one sweep."""
    return _softplus_gradients(problem, bias, offset, None, need_q, need_k)


def _softplus_gradients(
    problem: Problem,
    bias: Tensor,
    offset: Tensor | None,
    upstream: Tensor | None,
    need_q: bool,
    need_k: bool,
) -> tuple[SoftplusSums, Gradients]:
    """G_ij = y_ij sigma(y_ij (s_ij + bias + beta_ij) + o_i) upstream_i inside A (None: 1)."""
    sweep, top = Sweep(problem), TopOne(problem)
    zeros, num_rows = sweep.q_ND.new_zeros, problem.num_rows
    value_N, sum_N, offset_N = zeros(num_rows), zeros(num_rows), zeros(num_rows)
    dq_ND = torch.zeros_like(sweep.q_ND) if need_q else None
    dk_MD = torch.zeros_like(sweep.k_MD) if need_k else None
    buffer, other = sweep.buffer(), sweep.buffer()
    for tile, q_RD in sweep.tiles():
        rows, cols = slice(tile.r0, tile.r1), slice(tile.c0, tile.c1)
        seen = top if upstream is None else None
        x_RC, mask_RC, hit_RC = _signed_logits(sweep, tile, q_RD, buffer, bias, offset, seen)
        if upstream is None:  # fused forward: the values are wanted as well
            value_N[rows] += _masked_sum(F.softplus(x_RC, threshold=50.0), mask_RC)
        g_RC = torch.sigmoid(x_RC, out=view(other, tile))
        if mask_RC is not None:
            g_RC.masked_fill_(~mask_RC, 0)
        if upstream is not None:
            g_RC *= upstream[rows, None].to(g_RC.dtype)
        if offset is not None:
            offset_N[rows] += g_RC.sum(1)
        if hit_RC is not None:
            torch.where(hit_RC, -g_RC, g_RC, out=g_RC)
        sum_N[rows] += g_RC.sum(1)
        if dq_ND is not None:
            dq_ND[rows].addmm_(g_RC, sweep.k_MD[cols])
        if dk_MD is not None:
            dk_MD[cols].addmm_(g_RC.T, q_RD)
    empty = zeros(0)
    row_dot = empty if dq_ND is None else torch.linalg.vecdot(dq_ND, sweep.q_ND)
    dq = empty if dq_ND is None else dq_ND.mul_(sweep.factor)
    dk = empty if dk_MD is None else dk_MD
    sums = SoftplusSums(value_N, top.best, top.positive)
    return sums, Gradients(dq, dk, row_dot, sum_N, offset_N)


def _signed_logits(
    sweep: Sweep,
    tile: Tile,
    q_RD: Tensor,
    buffer: Tensor,
    bias: Tensor,
    offset: Tensor | None,
    top: TopOne | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Signed logits y (s + bias + beta) + o of a tile, its mask and its positives."""
    spec = sweep.problem.spec
    x_RC, mask_RC = sweep.logits(tile, q_RD, buffer), spec.mask(tile, "rows")
    if top is not None and sweep.problem.top1:
        top.add(tile, x_RC, mask_RC)
    x_RC += bias.to(x_RC.dtype)
    beta_RC = spec.beta(tile)
    if beta_RC is not None:
        x_RC += beta_RC.to(x_RC.dtype)
    hit_RC = spec.positive(tile)
    if hit_RC is not None:
        torch.where(hit_RC, -x_RC, x_RC, out=x_RC)
    if offset is not None:
        x_RC += offset[tile.r0 : tile.r1, None].to(x_RC.dtype)
    return x_RC, mask_RC, hit_RC


def _masked_sum(x_RC: Tensor, mask_RC: Tensor | None) -> Tensor:
    return (x_RC if mask_RC is None else x_RC.masked_fill_(~mask_RC, 0)).sum(1)
