"""Tile loop shared by the blocked sweeps: geometry, buffers, logits, masks, top-1 of a tile."""

# Shape suffixes: N queries, M keys, D dim, R rows of a tile, C columns of a tile.

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..core.problem import Problem
from ..specs.weights import Spec, Tile

ROWS, COLS = 512, 1024  # tile; flat optimum between 0.5 and 2 M elements
SINGLE = 2**21  # up to this many pairs: one tile, kept from forward to backward
STRIP, MIN_ROWS = 2**22, 64  # pairs of a strip of the one-sided fused sweep; its least height


def blocks(length: int, size: int) -> list[tuple[int, int]]:
    """Consecutive ranges of at most `size` entries."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def geometry(problem: Problem, strips: bool = False) -> tuple[int, int]:
    """Rows and columns of a tile; in half mode equal, for strips a strip has about STRIP pairs."""
    num_rows, num_cols = problem.num_rows, problem.num_cols
    if num_rows * num_cols <= SINGLE and not (strips or problem.half):
        return num_rows, num_cols
    if 4 * num_rows * num_cols <= problem.keep and not (strips or problem.half):
        return min(2 * ROWS, num_rows), min(2 * COLS, num_cols)  # all kept: fewer, larger products
    rows = max(MIN_ROWS, min(ROWS, STRIP // num_cols)) if strips else ROWS
    return min(rows, num_rows), min(ROWS if problem.half else COLS, num_cols)


class Sweep:
    """Operands of a problem in the statistics dtype and the order in which tiles are visited."""

    def __init__(self, problem: Problem, strips: bool = False) -> None:
        self.problem = problem
        self.q_ND = problem.q.detach().to(problem.dtype)
        self.k_MD = problem.k.detach().to(problem.dtype)
        self.factor = problem.factor.detach()
        rows, cols = geometry(problem, strips)
        self.row_blocks = blocks(problem.num_rows, rows)
        self.col_blocks = blocks(problem.num_cols, cols)
        self.tile_elements = rows * cols

    def buffer(self) -> Tensor:
        """Flat storage for one tile."""
        return self.q_ND.new_empty(self.tile_elements)

    def scaled_rows(self, r0: int, r1: int) -> Tensor:
        """(R, D): scale * row_scale * q of a row block."""
        factor = self.factor if len(self.factor) == 1 else self.factor[r0:r1]
        return self.q_ND[r0:r1] * factor

    def tiles(self) -> Iterator[tuple[Tile, Tensor]]:
        """Every tile with its scaled rows, row block by row block (half: upper triangle)."""
        for r0, r1 in self.row_blocks:
            q_RD = self.scaled_rows(r0, r1)
            for c0, c1 in self.col_blocks:
                if not self.problem.half or c0 >= r0:
                    yield self.problem.tile(r0, r1, c0, c1), q_RD

    def logits(self, tile: Tile, q_RD: Tensor, buffer: Tensor) -> Tensor:
        """(R, C) logits s of the tile, written into the buffer."""
        out_RC = view(buffer, tile)
        return torch.mm(q_RD, self.k_MD[tile.c0 : tile.c1].T, out=out_RC)


def kept_tiles(problem: Problem) -> tuple[int, int]:
    """How many of the first tiles are kept for the backward, and their number of elements.

    As many as fit into ``problem.keep`` bytes, all of them if there are at most `SINGLE` pairs,
    none if no backward follows (-1), or where the backward needs more than masked exponentials.
    """
    two_masks = problem.columns and problem.spec.has("threshold")
    if problem.keep < 0 or problem.moment or two_masks:
        return 0, 0
    if problem.q.device.type == "cuda":  # running maxima there: nothing can be reused
        return 0, 0
    rows, cols = geometry(problem)
    pairs = problem.num_rows * problem.num_cols
    budget = max(problem.keep // problem.dtype.itemsize, SINGLE if pairs <= SINGLE else 0)
    count, elements = 0, 0
    for r0, r1 in blocks(problem.num_rows, rows):
        for c0, c1 in blocks(problem.num_cols, cols):
            if problem.half and c0 < r0:
                continue
            more = elements + (r1 - r0) * (c1 - c0)
            if more > budget:
                return count, elements
            count, elements = count + 1, more
    return count, elements


def view(buffer: Tensor, tile: Tile) -> Tensor:
    """(R, C) contiguous view of the start of a flat buffer."""
    rows, cols = tile.shape
    return buffer[: rows * cols].view(rows, cols)


def masks(spec: Spec, tile: Tile, columns: bool) -> tuple[Tensor | None, Tensor | None]:
    """Row and column mask of a tile; the same object where they coincide."""
    row = spec.mask(tile, "rows")
    if not columns or not spec.has("threshold"):
        return row, row
    return row, spec.mask(tile, "columns")


class TopOne:
    """Largest logit of each row over counted pairs and positives; whether a positive has it."""

    def __init__(self, problem: Problem) -> None:
        size = problem.num_rows if problem.top1 else 0
        self.spec, self.half = problem.spec, problem.half
        self.best = problem.q.new_full((size,), -torch.inf, dtype=problem.dtype)
        self.positive = self.best.clone()

    def add(self, tile: Tile, s_RC: Tensor, mask_RC: Tensor | None) -> None:
        """Take a tile of logits (before any bias) into account."""
        hit_RC = self.spec.positive(tile)
        seen_RC = s_RC
        if mask_RC is not None:
            count_RC = mask_RC if hit_RC is None else mask_RC | hit_RC
            seen_RC = s_RC.masked_fill(~count_RC, -torch.inf)
        pos_RC = None if hit_RC is None else s_RC.masked_fill(~hit_RC, -torch.inf)
        self._reduce(slice(tile.r0, tile.r1), seen_RC, pos_RC, 1)
        if self.half and tile.r0 != tile.c0:
            self._reduce(slice(tile.c0, tile.c1), seen_RC, pos_RC, 0)

    def _reduce(self, at: slice, seen_RC: Tensor, pos_RC: Tensor | None, dim: int) -> None:
        self.best[at] = torch.maximum(self.best[at], seen_RC.amax(dim))
        if pos_RC is not None:
            self.positive[at] = torch.maximum(self.positive[at], pos_RC.amax(dim))

    @property
    def hit(self) -> Tensor:
        """1.0 where a positive attains the largest logit."""
        reached = (self.positive >= self.best) & ~self.positive.isneginf()
        return reached.to(self.best.dtype)


# --- exponential sums, with a fixed shift or with running maxima ----------------------------------

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
