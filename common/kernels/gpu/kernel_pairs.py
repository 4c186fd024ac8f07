"""Triton kernels of losses with a partition function: ``lse_kernel`` and two for gradients.

All of them work on a chunk of N query rows against M key columns; they only ever overwrite their
outputs (no atomics, no locks), so results are deterministic and a tile table may be tuned freely.
Exponentials are base 2 with log2(e) folded into the scale. Flags (compile-time constants):

    FIXED      one device scalar ``shift`` instead of running maxima (unit-norm inputs)
    COLUMNS    also column partials        TWO_MASKS  column mask differs from the row mask
    MASKED     the spec has a mask, or N or M are not multiples of the tile
    HALF       symmetric problem: only pairs with column id > row id; the mirrored pairs are covered
               by column partials of every statistic, and by c_i + c_j in the gradient
    KEEP       (FIXED only) also store the masked exponentials
    POS        (KEEP only) every row has at most one positive: store 0 there and its exponential
               apart, in fp32, because a 16-bit P_ii near 1 would spoil P_ii - 1
    LIN, MOMENT, TOP, BIAS, ROW_SCALE, ROW_OFFSET      which extra outputs / inputs exist
    TMA        q and k are tensor descriptors (compute capability 9)
    FLAT       one loop over tiles and slices of D, so that loads run ahead across tiles

See ``kernel_tiles`` for the naming of tile coordinates and ``run_pairs`` for the driver.
"""

# mypy: ignore-errors
# Shape suffixes: R rows of the tile (BM), C columns of the tile (BN).

import triton
import triton.language as tl

from .kernel_tiles import (
    LOG2E,
    bias,
    keep,
    positives,
    scores,
    scores_of_blocks,
    weight,
)


@triton.jit
def _inside(HALF: tl.constexpr, rows, cols, N, M, diag):
    """Bool tile without padding (HALF: above the diagonal)."""
    inside_RC = (rows < N)[:, None] & (cols < M)[None, :]
    if HALF:
        inside_RC = inside_RC & (cols[None, :] > (rows + diag)[:, None])
    return inside_RC


@triton.jit
def pairs(
    PROG: tl.constexpr,
    COLUMNS: tl.constexpr,
    HALF: tl.constexpr,
    sides,
    hit_RC,
    rows,
    cols,
    rm,
    cn,
    N,
    M,
    diag,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Bool tile of the pairs in a denominator, padding removed."""
    keep_RC = keep(PROG, 0, COLUMNS, sides, hit_RC, rm, cn, diag, BM, BN)
    return keep_RC & _inside(HALF, rows, cols, N, M, diag)


@triton.jit
def row_factor(scale, row_scale, rm, ROW_SCALE: tl.constexpr, BM: tl.constexpr):
    """Tau * rho_i, the factor from an inner product to a logit."""
    factor_R = tl.zeros([BM], dtype=tl.float32) + tl.load(scale).to(tl.float32)
    if ROW_SCALE:
        factor_R = factor_R * tl.load(row_scale + rm).to(tl.float32)
    return factor_R


@triton.jit
def _log2_sums(x_RC, axis: tl.constexpr):
    """Maximum and sum of 2^(x - maximum) along an axis; empty (all -inf) gives (-inf, 0)."""
    top = tl.max(x_RC, axis)
    base = tl.where(top == float("-inf"), 0.0, top)
    return top, tl.sum(tl.exp2(x_RC - tl.expand_dims(base, axis)), axis)


@triton.jit(do_not_specialize=["row_start", "col_start"])
def lse_kernel(
    q,
    k,
    scale,
    shift,
    row_scale,
    sides,
    row_max,
    row_sum,
    row_lin,
    row_mom,
    row_best,
    row_hit,
    row_pos,
    kept,
    col_max,
    col_sum,
    col_lin,
    col_best,
    col_hit,
    N,
    M,
    D,
    sq,
    sk,
    skept,
    row_start,
    col_start,
    split_cols,
    PROG: tl.constexpr,
    FIXED: tl.constexpr,
    COLUMNS: tl.constexpr,
    TWO_MASKS: tl.constexpr,
    MASKED: tl.constexpr,
    HALF: tl.constexpr,
    KEEP: tl.constexpr,
    POS: tl.constexpr,
    LIN: tl.constexpr,
    MOMENT: tl.constexpr,
    TOP: tl.constexpr,
    BIAS: tl.constexpr,
    ROW_SCALE: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    TMA: tl.constexpr,
    FLAT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Row and column statistics of one row block and one column split.

    Outputs (fp32): ``row_*`` (splits, N) partials of the row, ``col_*`` (row blocks, M) partials of
    the column; maxima in log2 units and sums relative to them (FIXED: sums relative to ``shift``),
    ``row_mom`` = sum of exp * s, ``row_lin`` = sum of omega * s, ``row_best`` largest logit among
    the pairs of the row mask and the positives, ``row_hit`` largest among the positives. The
    ``col_*`` of the last three exist with HALF only. ``kept`` (N, M), rows ``skept`` apart:
    exponentials; ``row_pos`` those of the positives.
    """
    block = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    diag = row_start - col_start
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    rm = tl.minimum(rows, N - 1)
    factor_R = row_factor(scale, row_scale, rm, ROW_SCALE, BM)
    if FIXED:
        shift2 = tl.load(shift).to(tl.float32) * LOG2E
    max_R = tl.full([BM], float("-inf"), dtype=tl.float32)
    sum_R = tl.zeros([BM], dtype=tl.float32)
    lin_R = tl.zeros([BM], dtype=tl.float32)
    mom_R = tl.zeros([BM], dtype=tl.float32)
    best_R = tl.full([BM], float("-inf"), dtype=tl.float32)
    hit_R = tl.full([BM], float("-inf"), dtype=tl.float32)
    pos_R = tl.zeros([BM], dtype=tl.float32)
    first = tl.program_id(1) * split_cols
    last = tl.minimum(first + split_cols, M)
    if HALF:  # tiles left of the diagonal are mirror images
        first = tl.maximum(first, (tl.program_id(0) * BM + diag) // BN * BN)
    for start in tl.range(first, last, BN, flatten=FLAT):
        cols = start + tl.arange(0, BN)
        cn = tl.minimum(cols, M - 1)
        if TMA:
            row = tl.program_id(0) * BM
            acc_RC = scores_of_blocks(q, k, row, start, D, BM, BN, BD, PRECISION, UPCAST)
        else:
            acc_RC = scores(q, k, rm, cn, D, sq, sk, BM, BN, BD, EVEN_D, PRECISION, UPCAST)
        hit_RC = positives(PROG, sides, rm, cn, diag, row_start, col_start, BM, BN)
        a_RC = pairs(PROG, False, HALF, sides, hit_RC, rows, cols, rm, cn, N, M, diag, BM, BN)
        x_RC = acc_RC * (factor_R * LOG2E)[:, None]
        at_C = block * M + cols
        if TOP:
            in_RC = _inside(HALF, rows, cols, N, M, diag)
            best_RC = tl.where(a_RC | (hit_RC & in_RC), x_RC, float("-inf"))
            good_RC = tl.where(hit_RC & in_RC, x_RC, float("-inf"))
            best_R = tl.maximum(best_R, tl.max(best_RC, 1))
            hit_R = tl.maximum(hit_R, tl.max(good_RC, 1))
            if HALF:
                tl.store(col_best + at_C, tl.max(best_RC, 0), mask=cols < M)
                tl.store(col_hit + at_C, tl.max(good_RC, 0), mask=cols < M)
        if LIN:
            w_RC = weight(PROG, sides, a_RC, rm, cn, diag, row_start, col_start, BM, BN)
            if MASKED:
                w_RC = tl.where(_inside(HALF, rows, cols, N, M, diag), w_RC, 0.0)
            w_RC = w_RC * acc_RC
            lin_R += tl.sum(w_RC, 1)
            if HALF:
                tl.store(col_lin + at_C, tl.sum(w_RC * factor_R[:, None], 0), mask=cols < M)
        if BIAS:
            x_RC += bias(PROG, sides, hit_RC, rm, cn, BM, BN) * LOG2E
        b_RC = a_RC
        if TWO_MASKS:
            b_RC = pairs(PROG, True, HALF, sides, hit_RC, rows, cols, rm, cn, N, M, diag, BM, BN)
        if FIXED:
            e_RC = tl.exp2(x_RC - shift2)
            f_RC = e_RC
            if MASKED:
                f_RC = tl.where(b_RC, e_RC, 0.0)
                e_RC = tl.where(a_RC, e_RC, 0.0)
            sum_R += tl.sum(e_RC, 1)
            if MOMENT:
                mom_R += tl.sum(e_RC * acc_RC, 1)
            if COLUMNS:
                tl.store(col_sum + at_C, tl.sum(f_RC, 0), mask=cols < M)
            if KEEP:
                if POS:
                    pos_R += tl.sum(tl.where(hit_RC, e_RC, 0.0), 1)
                    e_RC = tl.where(hit_RC, 0.0, e_RC)
                at_RC = kept + rows.to(tl.int64)[:, None] * skept + cols[None, :]
                in_RC = _inside(HALF, rows, cols, N, M, diag)
                tl.store(at_RC, e_RC.to(kept.dtype.element_ty), mask=in_RC)
        else:
            y_RC = x_RC
            if MASKED:
                y_RC = tl.where(b_RC, x_RC, float("-inf"))
                x_RC = tl.where(a_RC, x_RC, float("-inf"))
            new_R = tl.maximum(max_R, tl.max(x_RC, 1))
            base_R = tl.where(new_R == float("-inf"), 0.0, new_R)  # -inf - -inf is NaN
            fade_R = tl.exp2(max_R - base_R)
            e_RC = tl.exp2(x_RC - base_R[:, None])
            sum_R = sum_R * fade_R + tl.sum(e_RC, 1)
            if MOMENT:
                mom_R = mom_R * fade_R + tl.sum(e_RC * acc_RC, 1)
            max_R = new_R
            if COLUMNS:
                top_C, sum_C = _log2_sums(y_RC, 0)
                tl.store(col_max + at_C, top_C, mask=cols < M)
                tl.store(col_sum + at_C, sum_C, mask=cols < M)
    at = split * N + rows
    tl.store(row_sum + at, sum_R, mask=rows < N)
    if not FIXED:
        tl.store(row_max + at, max_R, mask=rows < N)
    if LIN:
        tl.store(row_lin + at, lin_R * factor_R, mask=rows < N)
    if MOMENT:
        tl.store(row_mom + at, mom_R * factor_R, mask=rows < N)
    if POS:
        tl.store(row_pos + at, pos_R, mask=rows < N)
    if TOP:
        tl.store(row_best + at, best_R, mask=rows < N)
        tl.store(row_hit + at, hit_R, mask=rows < N)


@triton.jit(do_not_specialize=["row_start", "col_start"])
def grad_kernel(
    q,
    k,
    scale,
    shift,
    row_scale,
    sides,
    row_lse,
    row_a,
    row_e,
    row_c,
    col_lse,
    col_b,
    col_c,
    g,
    N,
    M,
    D,
    sq,
    sk,
    sg,
    row_start,
    col_start,
    PROG: tl.constexpr,
    FIXED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TWO_MASKS: tl.constexpr,
    MASKED: tl.constexpr,
    HALF: tl.constexpr,
    LIN: tl.constexpr,
    MOMENT: tl.constexpr,
    BIAS: tl.constexpr,
    ROW_SCALE: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Gradient G of one tile's logits, computed in fp32, stored in the dtype of ``g`` (N, M).

        G = E_row * (a_i + e_i*s) + E_col * b_j + c_i * omega      (HALF: + c_j * omega)

    FIXED: E = exp(s + beta - shift) for both and the denominators are folded into a, e, b.
    Otherwise E_row = exp(s + beta - row_lse), E_col = exp(s + beta - col_lse), with the lse in log2
    units and +inf where a row or column is empty. ``a`` already holds a_i + e_i*(1 - row_mom_i).
    """
    diag = row_start - col_start
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    rm = tl.minimum(rows, N - 1)
    cn = tl.minimum(cols, M - 1)
    factor_R = row_factor(scale, row_scale, rm, ROW_SCALE, BM)
    acc_RC = scores(q, k, rm, cn, D, sq, sk, BM, BN, BD, EVEN_D, PRECISION, UPCAST)
    hit_RC = positives(PROG, sides, rm, cn, diag, row_start, col_start, BM, BN)
    a_RC = pairs(PROG, False, HALF, sides, hit_RC, rows, cols, rm, cn, N, M, diag, BM, BN)
    b_RC = a_RC
    if TWO_MASKS:
        b_RC = pairs(PROG, True, HALF, sides, hit_RC, rows, cols, rm, cn, N, M, diag, BM, BN)
    x_RC = acc_RC * (factor_R * LOG2E)[:, None]
    if BIAS:
        x_RC += bias(PROG, sides, hit_RC, rm, cn, BM, BN) * LOG2E
    if FIXED:
        e_RC = tl.exp2(x_RC - tl.load(shift).to(tl.float32) * LOG2E)
        f_RC = e_RC
    else:
        if ROWS:
            e_RC = tl.exp2(tl.where(a_RC, x_RC, 0.0) - tl.load(row_lse + rm)[:, None])
        if COLUMNS:
            f_RC = tl.exp2(tl.where(b_RC, x_RC, 0.0) - tl.load(col_lse + cn)[None, :])
    g_RC = tl.zeros([BM, BN], dtype=tl.float32)
    if ROWS:
        a_R = tl.load(row_a + rm)
        if MOMENT:
            s_RC = acc_RC * factor_R[:, None]
            part_RC = e_RC * (a_R[:, None] + tl.load(row_e + rm)[:, None] * s_RC)
        else:
            part_RC = e_RC * a_R[:, None]
        if MASKED:
            part_RC = tl.where(a_RC, part_RC, 0.0)
        g_RC += part_RC
    if COLUMNS:
        part_RC = f_RC * tl.load(col_b + cn)[None, :]
        if MASKED:
            part_RC = tl.where(b_RC, part_RC, 0.0)
        g_RC += part_RC
    if LIN:
        w_RC = weight(PROG, sides, a_RC, rm, cn, diag, row_start, col_start, BM, BN)
        if HALF:
            w_RC = tl.where(cols[None, :] > (rows + diag)[:, None], w_RC, 0.0)
            g_RC += w_RC * (tl.load(row_c + rm)[:, None] + tl.load(col_c + cn)[None, :])
        else:
            g_RC += w_RC * tl.load(row_c + rm)[:, None]
    at_RC = g + rows.to(tl.int64)[:, None] * sg + cols[None, :]
    tl.store(at_RC, g_RC.to(g.dtype.element_ty), mask=(rows < N)[:, None] & (cols < M)[None, :])


# --- kept exponentials: no product ----------------------------------------------------------------


@triton.jit(do_not_specialize=["row_start", "col_start"])
def kept_grad_kernel(
    kept,
    sides,
    row_pos,
    row_a,
    row_c,
    col_b,
    g,
    N,
    M,
    sg,
    row_start,
    col_start,
    PROG: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    POS: tl.constexpr,
    LIN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """G = E*(a_i + b_j) + c_i*omega of one tile in fp32, stored in the dtype of ``g`` (N, M).

    ``kept`` (N, M) holds the masked exponentials E of ``lse_kernel``, relative to the fixed shift;
    a and b hold the denominators. With POS the exponential of the one positive of a row is taken
    from ``row_pos`` in fp32.
    """
    diag = row_start - col_start
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    rm = tl.minimum(rows, N - 1)
    cn = tl.minimum(cols, M - 1)
    in_RC = (rows < N)[:, None] & (cols < M)[None, :]
    at_RC = kept + rows.to(tl.int64)[:, None] * M + cols[None, :]
    e_RC = tl.load(at_RC, mask=in_RC, other=0.0).to(tl.float32)
    hit_RC = positives(PROG, sides, rm, cn, diag, row_start, col_start, BM, BN)
    if POS:
        e_RC = tl.where(hit_RC, tl.load(row_pos + rm)[:, None], e_RC)
    factor_RC = tl.zeros([BM, BN], dtype=tl.float32)
    if ROWS:
        factor_RC += tl.load(row_a + rm)[:, None]
    if COLUMNS:
        factor_RC += tl.load(col_b + cn)[None, :]
    g_RC = e_RC * factor_RC
    if LIN:
        a_RC = pairs(PROG, False, False, sides, hit_RC, rows, cols, rm, cn, N, M, diag, BM, BN)
        w_RC = weight(PROG, sides, a_RC, rm, cn, diag, row_start, col_start, BM, BN)
        g_RC += w_RC * tl.load(row_c + rm)[:, None]
    out_RC = g + rows.to(tl.int64)[:, None] * sg + cols[None, :]
    tl.store(out_RC, g_RC.to(g.dtype.element_ty), mask=in_RC)
