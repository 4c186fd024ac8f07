"""Blocked back end: plain torch ops on tiles, O((N + M) D) memory, recomputation in the backward.

Forward: S = q k^T tile by tile, exponentials in place, row and column sums. Backward: the tile is
recomputed (or taken from the kept ones), turned into

    G_ij = a_i exp(s_ij + beta_ij - row_lse_i) + b_j exp(s_ij + beta_ij - col_lse_j)
         + c_i omega_ij + e_i pi_ij (1 + s_ij - row_mom_i)

and added to dq = G k and dk = G^T q. Weights with a closed form (positives, labels) never enter a
tile, see `linear`. It runs on any device; on CUDA it is the fallback and the cross-check.
"""

# Shape suffixes: N queries, M keys, D dim, R rows of a tile, C columns of a tile.

import torch
from torch import Tensor

from common.kernels.blocked.gradient_tiles import GradientFormer
from common.kernels.blocked.rows import info_nce_rows
from common.kernels.blocked.softplus import softplus_backward, softplus_forward, softplus_fused
from common.kernels.blocked.sums import FixedSums, OnlineSums, fixed_shift
from common.kernels.blocked.tiling import Sweep, TopOne, kept_tiles, masks
from common.kernels.core.linear import linear_backward, linear_forward, split
from common.kernels.core.problem import Gradients, Problem, RawStats, Upstream
from common.kernels.specs.base import Spec

__all__ = [
    "backward", "forward", "fuses_rows", "info_nce_rows", "softplus_backward", "softplus_forward",
    "softplus_fused", "unsupported",
]  # fmt: skip


def unsupported(problem: Problem) -> str | None:
    """Why this back end cannot run the problem: it always can."""
    return None


def fuses_rows(problem: Problem) -> bool:
    """Whether `info_nce_rows` can run the problem: it always can."""
    return True


def forward(problem: Problem) -> RawStats:
    """Statistics of the sweep; see `RawStats`. Repeats with running maxima if the guard trips."""
    sweep = Sweep(problem)
    shift = fixed_shift(problem)
    if shift is not None:
        sums = FixedSums(problem, shift)
        count, elements = kept_tiles(problem)
        kept = sweep.q_ND.new_empty(elements)
        row_lin, best, hit = _run(sweep, sums, kept, count)
        if sums.usable():
            row_lse, col_lse, row_mom = sums.finish()
            flag = sweep.q_ND.new_full((), shift)
            return RawStats(row_lse, col_lse, row_lin, row_mom, best, hit, flag, kept)
    else:
        kept = sweep.q_ND.new_empty(kept_tiles(problem)[1])  # its size must not depend on values
    online = OnlineSums(problem)
    row_lin, best, hit = _run(sweep, online, kept, 0)
    row_lse, col_lse, row_mom = online.finish()
    flag = sweep.q_ND.new_full((), torch.nan)
    return RawStats(row_lse, col_lse, row_lin, row_mom, best, hit, flag, kept)


def _run(
    sweep: Sweep, sums: FixedSums | OnlineSums, kept: Tensor, num_kept: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Visit every tile once: exponential sums, tile weights, top-1. Returns row_lin, best, hit."""
    problem, spec = sweep.problem, sweep.problem.spec
    closed, tiled = split(spec)
    row_lin = linear_forward(closed, problem) * problem.factor[:, 0]
    top = TopOne(problem)
    buffer = sweep.buffer()
    used = 0
    for number, (tile, q_RD) in enumerate(sweep.tiles()):
        rows, cols = tile.shape
        target = buffer
        if number < num_kept:
            target = kept[used : used + rows * cols]
            used += rows * cols
        s_RC = sweep.logits(tile, q_RD, target)
        mask_a, mask_b = masks(spec, tile, problem.columns)
        if problem.top1:
            top.add(tile, s_RC, mask_a)
        if tiled is not None:
            omega_RC = tiled.omega(tile, s_RC.dtype)
            if omega_RC is not None:
                row_lin[tile.r0 : tile.r1] += (s_RC * omega_RC).sum(1)
        plain_RC = s_RC.clone() if problem.moment else None
        beta_RC = spec.beta(tile)
        if beta_RC is not None:
            s_RC += beta_RC.to(s_RC.dtype)
        sums.add(tile, s_RC, mask_a, mask_b, plain_RC)
    return row_lin, top.best, top.hit


def backward(
    problem: Problem, stats: RawStats, upstream: Upstream, need_q: bool, need_k: bool
) -> Gradients:
    """Gradients of the statistics for q, k and (through row_dot) the scales; see `Gradients`.

    Args:
        problem: the sweep, as in the forward; for a shard, one key block.
        stats: final statistics (after merging shards).
        upstream: gradients of the loss for the statistics.
        need_q: whether dq (also for the scales) is wanted.
        need_k: whether dk is wanted.
    """
    sweep = Sweep(problem)
    closed, tiled = split(problem.spec)
    former = GradientFormer(sweep, stats, upstream, tiled)
    dq_ND = torch.zeros_like(sweep.q_ND) if need_q else None
    dk_MD = torch.zeros_like(sweep.k_MD) if need_k and not problem.half else None
    for number, (tile, q_RD) in enumerate(sweep.tiles()):
        g_RC, left_R = former(number, tile, q_RD)
        rows, cols = slice(tile.r0, tile.r1), slice(tile.c0, tile.c1)
        if dq_ND is not None:
            dq_ND[rows].addmm_(g_RC, sweep.k_MD[cols])
            if problem.half and tile.r0 != tile.c0:
                dq_ND[cols].addmm_(g_RC.T, sweep.q_ND[rows])
        if dk_MD is not None:
            dk_MD[cols].addmm_(g_RC.T, q_RD if left_R is None else q_RD * left_R)
    if dq_ND is not None and former.row_only and former.a_N1 is not None:
        dq_ND *= former.a_N1  # the same factor in all tiles of a row
    return _finish(sweep, closed, upstream, dq_ND, dk_MD)


def _finish(
    sweep: Sweep, closed: list[Spec], upstream: Upstream, dq: Tensor | None, dk: Tensor | None
) -> Gradients:
    """Row dots, closed-form weights and the scale of dq."""
    problem, c_N = sweep.problem, upstream.c
    empty = sweep.q_ND.new_empty(0)
    row_dot = empty
    if dq is not None:
        row_dot = torch.linalg.vecdot(dq, sweep.q_ND)
        if problem.half:
            row_dot *= 0.5  # dq holds both roles of every row
    if c_N is not None and closed:
        c_N = c_N.to(problem.dtype)
        if dq is not None:
            row_dot += c_N * linear_forward(closed, problem)
        other = dq if problem.half else dk
        factor = 1.0 if problem.half else sweep.factor[:, 0]
        linear_backward(closed, problem, c_N, dq, other, factor)
    if dq is not None:
        dq *= sweep.factor
    return Gradients(empty if dq is None else dq, empty if dk is None else dk, row_dot)
