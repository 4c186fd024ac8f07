"""Tile loop shared by the blocked sweeps: geometry, buffers, logits, masks, top-1 of a tile."""

# Shape suffixes: N queries, M keys, D dim, R rows of a tile, C columns of a tile.

from collections.abc import Iterator

import torch
from torch import Tensor

from common.kernels.core.problem import Problem
from common.kernels.specs.weights import Spec, Tile

ROWS, COLS = 512, 1024  # tile; flat optimum between 0.5 and 2 M elements
SINGLE = 2**21  # up to this many pairs: one tile, kept from forward to backward
STRIP, MIN_ROWS = 2**22, 64  # pairs of a strip of the one-sided fused sweep; its least height


def blocks(length: int, size: int) -> list[tuple[int, int]]:
    """Consecutive ranges of at most `size` entries."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def geometry(problem: Problem, strips: bool = False) -> tuple[int, int]:
    """Rows and columns of a tile; in half mode equal, for strips a strip has about STRIP pairs."""
    num_rows, num_cols = problem.num_rows, problem.num_cols
    if num_rows * num_cols <= SINGLE and not problem.half:
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
    """Largest logit of each row among counted pairs and positives, and whether a positive has it."""

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
