"""The Triton kernel that turns kept exponentials into the gradient of the logits: no product.

Rules and names as in ``triton_kernels``; like there, outputs are only overwritten.
"""

# mypy: ignore-errors
# Shape suffixes: R rows of the tile (BM), C columns of the tile (BN).

import triton
import triton.language as tl

from common.kernels.gpu.kernel_pairs import pairs
from common.kernels.gpu.kernel_tiles import positives, weight


@triton.jit(do_not_specialize=["row_start", "col_start"])
def kept_grad_kernel(
    kept, sides, row_pos, row_a, row_c, col_b, g,
    N, M, sg, row_start, col_start,
    PROG: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, POS: tl.constexpr,
    LIN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """G = E*(a_i + b_j) + c_i*omega of one tile, formed in fp32, stored in the dtype of ``g`` (N, M).

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
