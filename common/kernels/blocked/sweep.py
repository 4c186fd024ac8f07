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

from ..core.linear import linear_backward, linear_forward, split
from ..core.problem import Gradients, Problem, RawStats, Upstream
from ..specs.weights import Spec, Tile
from .rows import info_nce_rows
from .softplus import softplus_backward, softplus_forward, softplus_fused
from .tiling import (
    FixedSums,
    OnlineSums,
    Sweep,
    TopOne,
    exp_shifted_,
    fixed_shift,
    kept_tiles,
    masks,
    view,
)

__all__ = [
    "backward",
    "forward",
    "fuses_rows",
    "info_nce_rows",
    "softplus_backward",
    "softplus_forward",
    "softplus_fused",
    "unsupported",
]


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


# --- gradient tiles -------------------------------------------------------------------------------


class GradientFormer:
    """Forms G of a tile in a buffer, from recomputed or kept exponentials."""

    def __init__(
        self, sweep: Sweep, stats: RawStats, upstream: Upstream, tiled: Spec | None
    ) -> None:
        self.sweep, self.problem, self.stats = sweep, sweep.problem, stats
        dtype = self.problem.dtype
        a, b, c, e = (None if g is None else g.to(dtype) for g in upstream)
        if self.problem.half and b is not None:
            a, b = b if a is None else a + b, None
        shift = float(stats.shift) if stats.shift.device.type == "cpu" else torch.nan
        self.shift = None if shift != shift else shift
        self.fixed = self.shift is not None
        self.tiled = tiled if c is not None else None
        self.c, self.e = c, e if self.problem.moment else None
        if self.e is not None:
            a = self.e * (1 - stats.row_mom) + (0 if a is None else a)
        self.a_N1 = None if a is None else self._fold(a, stats.row_lse)[:, None]
        self.b_1M = None
        if b is not None and len(stats.col_lse):
            self.b_1M = self._fold(b, stats.col_lse)[None, :]
        self.e_N1 = None if self.e is None else self._fold(self.e, stats.row_lse)[:, None]
        self.row_only = (
            self.fixed
            and not self.problem.half
            and self.a_N1 is not None
            and self.b_1M is None
            and self.e_N1 is None
            and self.tiled is None
        )
        self.two_masks = self.problem.columns and self.problem.spec.has("threshold")
        self.num_kept = kept_tiles(self.problem)[0] if self.fixed and len(stats.kept) else 0
        self.used = 0
        self.plain_RC: Tensor | None = None  # logits of the tile, for the moment only
        self.buffer, self.other = sweep.buffer(), None if self.row_only else sweep.buffer()

    def _fold(self, gradient: Tensor, lse: Tensor) -> Tensor:
        """Gradient times exp(shift - lse) (fixed) or as it is; 0 where the denominator is empty."""
        if self.shift is not None:
            gradient = gradient * (self.shift - lse).exp()
        return torch.where(lse.isneginf(), 0, gradient)

    def __call__(self, number: int, tile: Tile, q_RD: Tensor) -> tuple[Tensor, Tensor | None]:
        """G of the tile and, in the row-only case, the factor of each row still to be applied."""
        if not self.fixed:
            return self._online(tile, q_RD), None
        e_RC, mask_a, mask_b = self._exponentials(number, tile, q_RD)
        if self.row_only:
            assert self.a_N1 is not None
            return e_RC, self.a_N1[tile.r0 : tile.r1]
        assert self.other is not None
        g_RC = view(self.other, tile)
        self._factors(tile, g_RC, e_RC, mask_a, mask_b)
        self._add_weights(tile, g_RC)
        return g_RC, None

    def _exponentials(
        self, number: int, tile: Tile, q_RD: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        rows, cols = tile.shape
        if number < self.num_kept:
            e_RC = self.stats.kept[self.used : self.used + rows * cols].view(rows, cols)
            self.used += rows * cols
            return e_RC, None, None
        x_RC = self.sweep.logits(tile, q_RD, self.buffer)
        if self.e is not None:
            self.plain_RC = x_RC.clone()
        beta_RC = self.problem.spec.beta(tile)
        if beta_RC is not None:
            x_RC += beta_RC.to(x_RC.dtype)
        e_RC = exp_shifted_(x_RC, self.shift or 0.0)
        mask_a, mask_b = masks(self.problem.spec, tile, self.problem.columns)
        if mask_a is not None and not self.two_masks:
            e_RC.masked_fill_(~mask_a, 0)
            mask_a = None
        return e_RC, mask_a, mask_b if self.two_masks else None

    def _factors(
        self, tile: Tile, g_RC: Tensor, e_RC: Tensor, mask_a: Tensor | None, mask_b: Tensor | None
    ) -> None:
        """Fill g with E * (a_i [+ e_i s_ij] + b_j), each under its own mask."""
        rows, cols = slice(tile.r0, tile.r1), slice(tile.c0, tile.c1)
        a_R1 = None if self.a_N1 is None else self.a_N1[rows]
        if self.problem.half and a_R1 is not None and self.a_N1 is not None:
            torch.add(a_R1, self.a_N1[cols].T, out=g_RC)
        elif a_R1 is None and self.b_1M is None:
            g_RC.zero_()
            return
        else:
            self._two_sided(
                g_RC, a_R1, None if self.b_1M is None else self.b_1M[:, cols], mask_a, mask_b
            )
        if self.e_N1 is not None:
            assert self.plain_RC is not None
            moment_RC = self.plain_RC.mul_(self.e_N1[rows])
            g_RC += moment_RC if mask_a is None else moment_RC.masked_fill_(~mask_a, 0)
        g_RC.mul_(e_RC)

    @staticmethod
    def _two_sided(
        g_RC: Tensor,
        a_R1: Tensor | None,
        b_1C: Tensor | None,
        mask_a: Tensor | None,
        mask_b: Tensor | None,
    ) -> None:
        if mask_a is None and mask_b is None and a_R1 is not None and b_1C is not None:
            torch.add(a_R1, b_1C, out=g_RC)
            return
        g_RC.zero_()
        for factor, mask in ((a_R1, mask_a), (b_1C, mask_b)):
            if factor is not None:
                g_RC += factor if mask is None else factor * mask

    def _online(self, tile: Tile, q_RD: Tensor) -> Tensor:
        """G from exp(s + beta - lse) directly, one exponential per denominator."""
        assert self.other is not None
        spec, stats = self.problem.spec, self.stats
        rows, cols = slice(tile.r0, tile.r1), slice(tile.c0, tile.c1)
        s_RC = self.sweep.logits(tile, q_RD, self.buffer)
        beta_RC = spec.beta(tile)
        x_RC = s_RC if beta_RC is None else s_RC + beta_RC.to(s_RC.dtype)
        mask_a, mask_b = masks(spec, tile, self.problem.columns)
        g_RC = view(self.other, tile).zero_()
        row_lse = stats.row_lse.masked_fill(stats.row_lse.isneginf(), torch.inf)
        if self.a_N1 is not None:
            p_RC = _masked_exp(x_RC - row_lse[rows, None], mask_a)
            factor = self.a_N1[rows]
            if self.e_N1 is not None:
                factor = factor + self.e_N1[rows] * s_RC
            g_RC += p_RC * factor
            if self.problem.half:
                p_RC = _masked_exp(x_RC - row_lse[None, cols], mask_a)
                g_RC += p_RC * self.a_N1[cols].T
        if self.b_1M is not None:
            col_lse = stats.col_lse.masked_fill(stats.col_lse.isneginf(), torch.inf)
            p_RC = _masked_exp(x_RC - col_lse[None, cols], mask_b)
            g_RC += p_RC * self.b_1M[:, cols]
        self._add_weights(tile, g_RC)
        return g_RC

    def _add_weights(self, tile: Tile, g_RC: Tensor) -> None:
        if self.tiled is not None and self.c is not None:
            omega_RC = self.tiled.omega(tile, g_RC.dtype)
            if omega_RC is not None:
                g_RC += self.c[tile.r0 : tile.r1, None] * omega_RC


def _masked_exp(x_RC: Tensor, mask_RC: Tensor | None) -> Tensor:
    if mask_RC is not None:
        x_RC.masked_fill_(~mask_RC, -torch.inf)
    return x_RC.exp_()
