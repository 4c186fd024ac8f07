"""One-sided InfoNCE whose gradients are formed together with the values: 3 GEMM units.

No second pass is needed because the denominator of a row is complete after its own strip of tiles
and the upstream gradient is known up to one scalar.
"""

# Shape suffixes: N queries, M keys, D dim, R rows of a strip, C columns of a tile.

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.linear import linear_backward, linear_forward, num_positives, split
from ..core.problem import Gradients, Problem, RawStats
from ..specs.weights import Tile
from .tiling import (
    Sweep,
    TopOne,
    exp_shifted_,
    fixed_shift,
    in_range,
    masks,
    sum_floor,
)


def valid_rows(problem: Problem, row_lse: Tensor) -> Tensor:
    """(N,) bool: rows with a denominator and, if the spec marks positives, at least one."""
    count = num_positives(problem.spec, problem.whole())
    alive = ~row_lse.isneginf()
    return alive if count is None else alive & (count > 0)


def row_values(row_lse: Tensor, row_lin: Tensor, join: bool) -> Tensor:
    """Row losses: row_lse - row_lin; with `join`, log(exp(row_lse) + exp(row_lin)) - row_lin.

    `join` belongs to denominators without the positive; it keeps confident rows exact in fp32.
    """
    return F.softplus(row_lse - row_lin, threshold=50.0) if join else row_lse - row_lin


def row_weights(row_lse: Tensor, row_lin: Tensor, join: bool) -> Tensor:
    """Derivative of `row_values` for row_lse, which is minus that for row_lin."""
    return torch.sigmoid(row_lse - row_lin) if join else torch.ones_like(row_lse)


def info_nce_rows(
    problem: Problem, need_q: bool, need_k: bool, join: bool = False
) -> tuple[RawStats, Gradients]:
    """Row statistics and the gradients of the sum of `row_values` over valid rows.

    Rows without any pair or positive contribute nothing. All weights must have closed forms.
    """
    sweep = Sweep(problem, strips=True)
    closed, tiled = split(problem.spec)
    assert tiled is None
    dq_ND = torch.zeros_like(sweep.q_ND) if need_q else None
    dk_MD = torch.zeros_like(sweep.k_MD) if need_k else None
    row_lse = sweep.q_ND.new_empty(problem.num_rows)
    count = num_positives(problem.spec, problem.whole())
    has_positive = torch.ones_like(row_lse) if count is None else (count > 0).to(row_lse)
    top, shift = TopOne(problem), fixed_shift(problem)
    linear = linear_forward(closed, problem)
    row_lin = linear * sweep.factor[:, 0]
    strip_rows = sweep.row_blocks[0][1]
    storage = sweep.q_ND.new_empty(strip_rows * problem.num_cols)
    for r0, r1 in sweep.row_blocks:
        q_RD = sweep.scaled_rows(r0, r1)
        strip_tiles, sums_R, base_R = _strip(sweep, (r0, r1), q_RD, storage, shift, top)
        row_lse[r0:r1] = torch.where(sums_R > 0, sums_R.log() + base_R, -torch.inf)
        weight_R = row_weights(row_lse[r0:r1], row_lin[r0:r1], join) * has_positive[r0:r1]
        inverse_R1 = torch.where(sums_R > 0, weight_R / sums_R, 0)[:, None]
        weighted_RD = q_RD * inverse_R1
        for tile, e_RC in strip_tiles:
            cols = slice(tile.c0, tile.c1)
            if dq_ND is not None:
                dq_ND[r0:r1].addmm_(e_RC, sweep.k_MD[cols])
            if dk_MD is not None:
                dk_MD[cols].addmm_(e_RC.T, weighted_RD)
        if dq_ND is not None:
            dq_ND[r0:r1] *= inverse_R1
    minus_N = -row_weights(row_lse, row_lin, join) * valid_rows(problem, row_lse)
    row_dot = row_lse.new_empty(0)
    if dq_ND is not None:
        row_dot = torch.linalg.vecdot(dq_ND, sweep.q_ND) + minus_N * linear
    linear_backward(closed, problem, minus_N, dq_ND, dk_MD, sweep.factor[:, 0])
    empty = row_lse.new_empty(0)
    dq_out = empty if dq_ND is None else dq_ND.mul_(sweep.factor)
    stats = RawStats(row_lse, empty, row_lin, empty, top.best, top.hit, empty, empty)
    return stats, Gradients(dq_out, empty if dk_MD is None else dk_MD, row_dot)


def _strip(
    sweep: Sweep,
    rows: tuple[int, int],
    q_RD: Tensor,
    storage: Tensor,
    shift: float | None,
    top: TopOne,
) -> tuple[list[tuple[Tile, Tensor]], Tensor, Tensor | float]:
    """Exponentials of a row strip in contiguous tiles, their row sums and their shifts.

    Falls back to the maximum of each row where the fixed shift does not serve.
    """
    problem, used = sweep.problem, 0
    tiles: list[tuple[Tile, Tensor]] = []
    sums_R = q_RD.new_zeros(len(q_RD))
    alive_R = torch.zeros_like(sums_R, dtype=torch.bool)
    for c0, c1 in sweep.col_blocks:
        tile = problem.tile(*rows, c0, c1)
        x_RC = sweep.logits(tile, q_RD, storage[used:])
        used += x_RC.numel()
        mask_RC, _ = masks(problem.spec, tile, False)
        if problem.top1:
            top.add(tile, x_RC, mask_RC)
        beta_RC = problem.spec.beta(tile)
        if beta_RC is not None:
            x_RC += beta_RC.to(x_RC.dtype)
        if shift is not None:
            exp_shifted_(x_RC, shift)
        if mask_RC is not None:
            x_RC.masked_fill_(~mask_RC, -torch.inf if shift is None else 0)
        if shift is not None:
            sums_R += x_RC.sum(1)
        alive_R |= True if mask_RC is None else mask_RC.any(1)
        tiles.append((tile, x_RC))
    if shift is not None:
        if in_range(sums_R, alive_R, sum_floor(problem)):
            return tiles, sums_R, shift
        return _strip(sweep, rows, q_RD, storage, None, top)
    top_R = torch.stack([x_RC.amax(1) for _, x_RC in tiles]).amax(0)
    base_R = torch.where(top_R.isneginf(), 0, top_R)
    for _, x_RC in tiles:
        sums_R += x_RC.sub_(base_R[:, None]).exp_().sum(1)
    return tiles, sums_R, base_R
