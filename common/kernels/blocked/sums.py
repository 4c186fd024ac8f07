"""Accumulators of the exponential sums of a sweep: with a fixed shift, or with running maxima."""

# Shape suffixes: N queries, M keys, R rows of a tile, C columns of a tile.

import math

import torch
from torch import Tensor

from common.kernels.core.problem import Problem
from common.kernels.specs.weights import Tile

# exp stays finite and normal between these exponents: (upper bound of a sum, smallest sum / M)
_RANGE = {torch.float32: (80.0, 1e-30), torch.float64: (700.0, 1e-290)}
_MAX_SCALE = {torch.float32: 120.0, torch.float64: 1000.0}


def fixed_shift(problem: Problem) -> float | None:
    """Shift c = max(0, s_max + ln M - 80) that lets one exponential serve rows and columns.

    None where running maxima are needed: inputs not declared unit-norm, a very large scale, or a
    device on which reading the scale would synchronise. `FixedSums.usable` is the guard.
    """
    if not problem.unit_norm or problem.q.device.type != "cpu":
        return None
    largest = float(problem.factor.abs().max())
    count = max(problem.num_rows, problem.num_cols)
    if not largest <= _MAX_SCALE[problem.dtype]:
        return None
    return max(0.0, largest + math.log(count) - _RANGE[problem.dtype][0])


class FixedSums:
    """Sums of exp(s + beta - shift)."""

    def __init__(self, problem: Problem, shift: float) -> None:
        zeros = problem.q.new_zeros
        self.shift, self.half = shift, problem.half
        self.columns = problem.columns and not problem.half
        self.row = zeros(problem.num_rows, dtype=problem.dtype)
        self.col = zeros(problem.num_cols if self.columns else 0, dtype=problem.dtype)
        self.mom = zeros(problem.num_rows if problem.moment else 0, dtype=problem.dtype)
        self.row_alive = torch.zeros_like(self.row, dtype=torch.bool)
        self.col_alive = torch.zeros_like(self.col, dtype=torch.bool)
        self.floor = sum_floor(problem)

    def add(
        self,
        tile: Tile,
        x_RC: Tensor,
        mask_a: Tensor | None,
        mask_b: Tensor | None,
        s_RC: Tensor | None,
    ) -> Tensor:
        """Turn x = s + beta of a tile into its exponentials in place and add them up."""
        rows, cols = slice(tile.r0, tile.r1), slice(tile.c0, tile.c1)
        exp_shifted_(x_RC, self.shift)
        self._note_alive(tile, mask_a, mask_b)
        if self.columns and mask_b is not mask_a:
            self.col[cols] += (x_RC if mask_b is None else x_RC * mask_b).sum(0)
        if mask_a is not None:
            x_RC.masked_fill_(~mask_a, 0)
        self.row[rows] += x_RC.sum(1)
        if s_RC is not None:
            self.mom[rows] += torch.linalg.vecdot(x_RC, s_RC)
        if self.half and tile.r0 != tile.c0:
            self.row[cols] += x_RC.sum(0)
        elif self.columns and mask_b is mask_a:
            self.col[cols] += x_RC.sum(0)
        return x_RC

    def _note_alive(self, tile: Tile, mask_a: Tensor | None, mask_b: Tensor | None) -> None:
        rows, cols = slice(tile.r0, tile.r1), slice(tile.c0, tile.c1)
        self.row_alive[rows] |= True if mask_a is None else mask_a.any(1)
        if self.half:
            self.row_alive[cols] |= True if mask_a is None else mask_a.any(0)
        if self.columns:
            self.col_alive[cols] |= True if mask_b is None else mask_b.any(0)

    def usable(self) -> bool:
        """Whether every sum that has terms is finite and large enough to be exact."""
        return in_range(self.row, self.row_alive, self.floor) and in_range(
            self.col, self.col_alive, self.floor
        )

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """row_lse, col_lse, row_mom."""
        mom = self.mom / self.row.clamp(min=self.floor) if len(self.mom) else self.mom
        return self.row.log() + self.shift, self.col.log() + self.shift, mom


class OnlineSums:
    """Sums relative to running maxima of each row and column; right for any finite logits."""

    def __init__(self, problem: Problem) -> None:
        full = problem.q.new_full
        self.half = problem.half
        self.columns = problem.columns and not problem.half
        shape, dtype = problem.num_rows, problem.dtype
        cols = problem.num_cols if self.columns else 0
        self.row, self.col = full((shape,), 0, dtype=dtype), full((cols,), 0, dtype=dtype)
        self.row_max = full((shape,), -torch.inf, dtype=dtype)
        self.col_max = full((cols,), -torch.inf, dtype=dtype)
        self.mom = full((shape if problem.moment else 0,), 0, dtype=dtype)

    def add(
        self,
        tile: Tile,
        x_RC: Tensor,
        mask_a: Tensor | None,
        mask_b: Tensor | None,
        s_RC: Tensor | None,
    ) -> Tensor:
        """Add the exponentials of x = s + beta of a tile; x is overwritten."""
        rows, cols = slice(tile.r0, tile.r1), slice(tile.c0, tile.c1)
        if self.columns:
            y_RC = x_RC if mask_b is None else x_RC.masked_fill(~mask_b, -torch.inf)
            self._merge(self.col, self.col_max, cols, y_RC, 0)
        if mask_a is not None:
            x_RC.masked_fill_(~mask_a, -torch.inf)
        if self.half and tile.r0 != tile.c0:
            self._merge(self.row, self.row_max, cols, x_RC, 0)
        fade, e_RC = self._merge(self.row, self.row_max, rows, x_RC, 1)
        if s_RC is not None:
            self.mom[rows] = self.mom[rows] * fade + torch.linalg.vecdot(e_RC, s_RC)
        return e_RC

    @staticmethod
    def _merge(
        total: Tensor, top: Tensor, at: slice, x_RC: Tensor, dim: int
    ) -> tuple[Tensor, Tensor]:
        new = torch.maximum(top[at], x_RC.amax(dim))
        base = torch.where(new.isneginf(), 0, new)  # (-inf) - (-inf) is NaN
        e_RC = (x_RC - base.unsqueeze(dim)).exp_()
        fade = (top[at] - base).exp()
        total[at] = total[at] * fade + e_RC.sum(dim)
        top[at] = new
        return fade, e_RC

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """row_lse, col_lse, row_mom."""
        mom = self.mom
        if len(mom):
            mom = torch.where(self.row > 0, mom / self.row, 0)
        row_lse = torch.where(self.row_max.isneginf(), -torch.inf, self.row_max + self.row.log())
        col_lse = torch.where(self.col_max.isneginf(), -torch.inf, self.col_max + self.col.log())
        return row_lse, col_lse, mom


def exp_shifted_(x_RC: Tensor, shift: float) -> Tensor:
    """exp(x - shift) in place."""
    return (x_RC.sub_(shift) if shift else x_RC).exp_()


def sum_floor(problem: Problem) -> float:
    """Smallest sum of shifted exponentials that is exact to rounding."""
    return _RANGE[problem.dtype][1] * max(problem.num_rows, problem.num_cols)


def in_range(total: Tensor, alive: Tensor, floor: float) -> bool:
    """Whether every sum that has terms is finite and at least `floor`."""
    return bool((((total >= floor) & total.isfinite()) | ~alive).all())
