"""The Triton kernels of the losses without a partition function (SigLIP, Hydra positives).

    row_sp_i = sum over A(i) of softplus(z_ij),   z = y*(s + beta + offset) + o_i,   y = -1 for the
    positives of the spec and +1 elsewhere

Rules and names as in ``kernel_pairs``; like there, outputs are only overwritten.
"""

# mypy: ignore-errors
# Shape suffixes: R rows of the tile (BM), C columns of the tile (BN).

import triton
import triton.language as tl

from .kernel_pairs import pairs, row_factor
from .kernel_tiles import LOG2E, bias, positives, scores


@triton.jit
def _softplus_logit(
    q,
    k,
    scale,
    offset,
    row_scale,
    row_offset,
    sides,
    rows,
    cols,
    N,
    M,
    D,
    sq,
    sk,
    row_start,
    col_start,
    PROG: tl.constexpr,
    BIAS: tl.constexpr,
    ROW_SCALE: tl.constexpr,
    ROW_OFFSET: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Z of a tile, with its signs y, its mask, its positives and the logits s."""
    diag = row_start - col_start
    rm = tl.minimum(rows, N - 1)
    cn = tl.minimum(cols, M - 1)
    factor_R = row_factor(scale, row_scale, rm, ROW_SCALE, BM)
    acc_RC = scores(q, k, rm, cn, D, sq, sk, BM, BN, BD, EVEN_D, PRECISION, UPCAST)
    hit_RC = positives(PROG, sides, rm, cn, diag, row_start, col_start, BM, BN)
    a_RC = pairs(PROG, False, False, sides, hit_RC, rows, cols, rm, cn, N, M, diag, BM, BN)
    s_RC = acc_RC * factor_R[:, None]
    z_RC = s_RC + tl.load(offset).to(tl.float32)
    if BIAS:
        z_RC += bias(PROG, sides, hit_RC, rm, cn, BM, BN)
    y_RC = tl.where(hit_RC, -1.0, 1.0)
    z_RC = z_RC * y_RC
    if ROW_OFFSET:
        z_RC += tl.load(row_offset + rm)[:, None]
    return z_RC, y_RC, a_RC, hit_RC, s_RC


@triton.jit
def _top(s_RC, a_RC, hit_RC, cols, M):
    """Largest logit of each row among counted pairs and positives, and among positives."""
    hit_RC = hit_RC & (cols < M)[None, :]
    best_RC = tl.where(a_RC | hit_RC, s_RC, float("-inf"))
    good_RC = tl.where(hit_RC, s_RC, float("-inf"))
    return tl.max(best_RC, 1), tl.max(good_RC, 1)


@triton.jit
def _softplus(z_RC):
    """log(1 + exp(z)); log1p(t) by its series where 1 + t would round."""
    t_RC = tl.exp2(-tl.abs(z_RC) * LOG2E)
    series_RC = t_RC * (1.0 - t_RC * (0.5 - t_RC * (0.33333333 - t_RC * 0.25)))
    log_RC = tl.where(t_RC < 0.03, series_RC, tl.log(1.0 + t_RC))
    return tl.maximum(z_RC, 0.0) + log_RC


@triton.jit(do_not_specialize=["row_start", "col_start"])
def softplus_kernel(
    q,
    k,
    scale,
    offset,
    row_scale,
    row_offset,
    sides,
    row_sp,
    row_best,
    row_pos,
    N,
    M,
    D,
    sq,
    sk,
    row_start,
    col_start,
    split_cols,
    PROG: tl.constexpr,
    MASKED: tl.constexpr,
    BIAS: tl.constexpr,
    ROW_SCALE: tl.constexpr,
    ROW_OFFSET: tl.constexpr,
    TOP: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """Row sums of softplus(z), (splits, N) fp32; with TOP the largest logits, see `_top`."""
    split = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    sp_R = tl.zeros([BM], dtype=tl.float32)
    best_R = tl.full([BM], float("-inf"), dtype=tl.float32)
    pos_R = tl.full([BM], float("-inf"), dtype=tl.float32)
    first = tl.program_id(1) * split_cols
    for start in range(first, tl.minimum(first + split_cols, M), BN):
        cols = start + tl.arange(0, BN)
        z_RC, _, a_RC, hit_RC, s_RC = _softplus_logit(
            q,
            k,
            scale,
            offset,
            row_scale,
            row_offset,
            sides,
            rows,
            cols,
            N,
            M,
            D,
            sq,
            sk,
            row_start,
            col_start,
            PROG,
            BIAS,
            ROW_SCALE,
            ROW_OFFSET,
            EVEN_D,
            PRECISION,
            UPCAST,
            BM,
            BN,
            BD,
        )
        sp_RC = _softplus(z_RC)
        if MASKED:
            sp_RC = tl.where(a_RC, sp_RC, 0.0)
        sp_R += tl.sum(sp_RC, 1)
        if TOP:
            top_R, own_R = _top(s_RC, a_RC, hit_RC, cols, M)
            best_R = tl.maximum(best_R, top_R)
            pos_R = tl.maximum(pos_R, own_R)
    at = split * N + rows
    tl.store(row_sp + at, sp_R, mask=rows < N)
    if TOP:
        tl.store(row_best + at, best_R, mask=rows < N)
        tl.store(row_pos + at, pos_R, mask=rows < N)


@triton.jit(do_not_specialize=["row_start", "col_start"])
def softplus_grad_kernel(
    q,
    k,
    scale,
    offset,
    row_scale,
    row_offset,
    sides,
    row_up,
    row_sp,
    row_sum,
    row_sig,
    row_best,
    row_pos,
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
    MASKED: tl.constexpr,
    BIAS: tl.constexpr,
    ROW_SCALE: tl.constexpr,
    ROW_OFFSET: tl.constexpr,
    VALUE: tl.constexpr,
    TOP: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """G = y * sigma(z) * up_i of one tile, formed in fp32, stored in the dtype of ``g`` (N, M).

    Also the tile's row sums (column blocks, N) in fp32, up_i not applied: ``row_sum`` of y*sigma(z)
    for the gradient of the offset, with ROW_OFFSET ``row_sig`` of sigma(z) for that of o, with
    VALUE ``row_sp`` of softplus(z) (the forward for free), with TOP the largest logits (`_top`).
    """
    block = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    z_RC, y_RC, a_RC, hit_RC, s_RC = _softplus_logit(
        q,
        k,
        scale,
        offset,
        row_scale,
        row_offset,
        sides,
        rows,
        cols,
        N,
        M,
        D,
        sq,
        sk,
        row_start,
        col_start,
        PROG,
        BIAS,
        ROW_SCALE,
        ROW_OFFSET,
        EVEN_D,
        PRECISION,
        UPCAST,
        BM,
        BN,
        BD,
    )
    t_RC = tl.exp2(-tl.abs(z_RC) * LOG2E)
    sig_RC = tl.where(z_RC > 0, 1.0, t_RC) / (1.0 + t_RC)
    if MASKED:
        sig_RC = tl.where(a_RC, sig_RC, 0.0)
    at = block * N + rows
    if VALUE:
        sp_RC = _softplus(z_RC)
        if MASKED:
            sp_RC = tl.where(a_RC, sp_RC, 0.0)
        tl.store(row_sp + at, tl.sum(sp_RC, 1), mask=rows < N)
    if TOP:
        best_R, pos_R = _top(s_RC, a_RC, hit_RC, cols, M)
        tl.store(row_best + at, best_R, mask=rows < N)
        tl.store(row_pos + at, pos_R, mask=rows < N)
    if ROW_OFFSET:
        tl.store(row_sig + at, tl.sum(sig_RC, 1), mask=rows < N)
    sig_RC = sig_RC * y_RC
    tl.store(row_sum + at, tl.sum(sig_RC, 1), mask=rows < N)
    g_RC = sig_RC * tl.load(row_up + tl.minimum(rows, N - 1))[:, None]
    at_RC = g + rows.to(tl.int64)[:, None] * sg + cols[None, :]
    tl.store(at_RC, g_RC.to(g.dtype.element_ty), mask=(rows < N)[:, None] & (cols < M)[None, :])
