"""Triton building blocks: scores, masks, weights and biases of one tile of the pair matrix.

A spec reaches the kernels as a *program*: a string that is a compile-time constant (see
``lowering``) and a tuple of operands, side tensors and numbers. The string is a list of nodes
``op,arg,arg;op,...``; node 0 is the conjunction of all atoms. The functions below walk it while
Triton compiles, so a tile contains exactly the comparisons that its spec needs. Tiles are addressed
by

    rm   (BM,) row in the chunk         cn   (BN,) column
    diag       global row id - global column id for rm == cn == 0

both clamped to valid values by the caller, which masks the results. Nothing here is compiled at
import. ``UPCAST`` converts operands to fp32 before a product: Triton's interpreter multiplies the
raw bit patterns of bfloat16, and fp32 products of bf16 values are what tensor cores compute.
"""

# mypy: ignore-errors
# Shape suffixes: R rows of the tile (BM), C columns of the tile (BN).

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.constexpr_function
def _op(prog, node):
    return prog.split(";")[node].split(",")[0]


@triton.constexpr_function
def _arity(prog, node):
    return len(prog.split(";")[node].split(",")) - 1


@triton.constexpr_function
def _int(prog, node, i):
    return int(prog.split(";")[node].split(",")[i + 1])


@triton.constexpr_function
def _name(prog, node, i):
    return prog.split(";")[node].split(",")[i + 1]


@triton.constexpr_function
def _marks(op):
    return op in ("diagonal", "index", "partner", "block", "labels")


@triton.jit
def scores(
    q,
    k,
    rm,
    cn,
    D,
    sq,
    sk,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    EVEN_D: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Inner products (BM, BN) fp32 of rows ``rm`` of q and ``cn`` of k, D in slices of BD.

    Addresses follow from ``d``: carried from slice to slice they would keep a flattened loop over
    tiles and slices from loading ahead.
    """
    rd = tl.arange(0, BD)
    q_RD = q + rm.to(tl.int64)[:, None] * sq + rd[None, :]
    k_DC = k + cn.to(tl.int64)[None, :] * sk + rd[:, None]
    acc_RC = tl.zeros([BM, BN], dtype=tl.float32)
    for d in range(0, D, BD):
        if EVEN_D:
            a_RD = tl.load(q_RD + d)
            b_DC = tl.load(k_DC + d)
        else:
            a_RD = tl.load(q_RD + d, mask=(d + rd < D)[None, :], other=0.0)
            b_DC = tl.load(k_DC + d, mask=(d + rd < D)[:, None], other=0.0)
        if UPCAST:
            a_RD = a_RD.to(tl.float32)
            b_DC = b_DC.to(tl.float32)
        acc_RC = tl.dot(a_RD, b_DC, acc_RC, input_precision=PRECISION)
    return acc_RC


@triton.jit
def scores_of_blocks(
    q,
    k,
    row,
    col,
    D,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The same of rows ``row`` ... and columns ``col`` ..., read by the card's copy engine (TMA).

    ``q`` and ``k`` are tensor descriptors with blocks (BM, BD) and (BN, BD); what lies outside the
    matrices reads as 0, so D may be any number.
    """
    acc_RC = tl.zeros([BM, BN], dtype=tl.float32)
    for d in range(0, D, BD):
        a_RD = q.load([row, d])
        b_CD = k.load([col, d])
        if UPCAST:
            a_RD = a_RD.to(tl.float32)
            b_CD = b_CD.to(tl.float32)
        acc_RC = tl.dot(a_RD, b_CD.T, acc_RC, input_precision=PRECISION)
    return acc_RC


@triton.jit
def _features(u, v, rm, cn, WIDTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Products u_i.v_j of contiguous fp32 side features, always in full fp32."""
    return scores(u, v, rm, cn, WIDTH, WIDTH, WIDTH, BM, BN, 16, WIDTH % 16 == 0, "ieee", False)


@triton.jit
def _same(sides, a: tl.constexpr, b: tl.constexpr, rm, cn):
    return tl.load(sides[a] + rm)[:, None] == tl.load(sides[b] + cn)[None, :]


@triton.jit
def on_diagonal(rm, cn, diag):
    """Bool tile: equal global row and column ids."""
    return (rm + diag)[:, None] == cn[None, :]


@triton.jit
def _hits(PROG: tl.constexpr, NODE: tl.constexpr, sides, rm, cn, diag, row_start, col_start):
    """Bool tile of the positives that one node marks (nodes that mark none are not asked)."""
    if _op(PROG, NODE) == "diagonal":
        return on_diagonal(rm, cn, diag)
    elif _op(PROG, NODE) == "index":
        pos_R = tl.load(sides[_int(PROG, NODE, 0)] + rm)
        return pos_R[:, None] == (cn + col_start)[None, :]
    elif _op(PROG, NODE) == "partner":
        half = sides[_int(PROG, NODE, 0)]
        pos_R = (rm + row_start + half) % (2 * half)
        return pos_R[:, None] == (cn + col_start)[None, :]
    elif _op(PROG, NODE) == "labels":
        same_RC = _same(sides, _int(PROG, NODE, 0), _int(PROG, NODE, 1), rm, cn)
        if _int(PROG, NODE, 3):
            same_RC = same_RC & (on_diagonal(rm, cn, diag) == 0)
        return same_RC
    else:  # block
        row_C = (cn + col_start) // _int(PROG, NODE, 0)
        return (rm + row_start)[:, None] == row_C[None, :]


@triton.jit
def positives(
    PROG: tl.constexpr,
    sides,
    rm,
    cn,
    diag,
    row_start,
    col_start,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Bool tile of all positives of the spec."""
    hit_RC = tl.full([BM, BN], 0, tl.int1)
    for i in tl.static_range(_arity(PROG, 0)):
        if _marks(_op(PROG, _int(PROG, 0, i))):
            hit_RC = hit_RC | _hits(
                PROG, _int(PROG, 0, i), sides, rm, cn, diag, row_start, col_start
            )
    return hit_RC


@triton.jit
def _excluded(PROG: tl.constexpr, NODE: tl.constexpr, sides, rm, cn):
    same_RC = _same(sides, _int(PROG, NODE, 1), _int(PROG, NODE, 2), rm, cn)
    if _int(PROG, NODE, 3) >= 0:
        same_RC = same_RC | _same(sides, _int(PROG, NODE, 3), _int(PROG, NODE, 2), rm, cn)
    return same_RC


@triton.jit
def _below(
    PROG: tl.constexpr,
    NODE: tl.constexpr,
    COLUMNS: tl.constexpr,
    sides,
    rm,
    cn,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """u_i.v_j <= thr_i; for the column denominators <= thr_columns_j, or all without it."""
    width: tl.constexpr = _int(PROG, NODE, 5)
    u = sides[_int(PROG, NODE, 1)]
    v = sides[_int(PROG, NODE, 2)]
    if COLUMNS:
        if _int(PROG, NODE, 4) >= 0:
            dot_RC = _features(u, v, rm, cn, width, BM, BN)
            return dot_RC <= tl.load(sides[_int(PROG, NODE, 4)] + cn)[None, :]
        else:
            return tl.full([BM, BN], 1, tl.int1)
    else:
        dot_RC = _features(u, v, rm, cn, width, BM, BN)
        return dot_RC <= tl.load(sides[_int(PROG, NODE, 3)] + rm)[:, None]


@triton.jit
def keep(
    PROG: tl.constexpr,
    NODE: tl.constexpr,
    COLUMNS: tl.constexpr,
    sides,
    hit_RC,
    rm,
    cn,
    diag,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Bool tile: the pairs which the sub-tree of NODE lets into the denominators."""
    if _op(PROG, NODE) == "and":
        all_RC = tl.full([BM, BN], 1, tl.int1)
        for i in tl.static_range(_arity(PROG, NODE)):
            all_RC = all_RC & keep(
                PROG, _int(PROG, NODE, i), COLUMNS, sides, hit_RC, rm, cn, diag, BM, BN
            )
        return all_RC
    elif _op(PROG, NODE) == "or":
        any_RC = tl.full([BM, BN], 0, tl.int1)
        for i in tl.static_range(_arity(PROG, NODE)):
            any_RC = any_RC | keep(
                PROG, _int(PROG, NODE, i), COLUMNS, sides, hit_RC, rm, cn, diag, BM, BN
            )
        return any_RC
    elif _op(PROG, NODE) == "exclude_self":
        return on_diagonal(rm, cn, diag) == 0
    elif _op(PROG, NODE) == "labels":
        if _int(PROG, NODE, 3):
            return on_diagonal(rm, cn, diag) == 0
        else:
            return tl.full([BM, BN], 1, tl.int1)
    elif _op(PROG, NODE) == "exclude_positive":
        return hit_RC == 0
    elif _op(PROG, NODE) == "only_positive":
        return hit_RC
    elif _op(PROG, NODE) == "exclude":
        keep_RC = _excluded(PROG, NODE, sides, rm, cn) == 0
        if _int(PROG, NODE, 0):
            keep_RC = keep_RC | hit_RC
        return keep_RC
    elif _op(PROG, NODE) == "valid":
        ok_RC = tl.full([BM, BN], 1, tl.int1)
        if _int(PROG, NODE, 0) >= 0:
            ok_RC = ok_RC & (tl.load(sides[_int(PROG, NODE, 0)] + rm) != 0)[:, None]
        if _int(PROG, NODE, 1) >= 0:
            ok_RC = ok_RC & (tl.load(sides[_int(PROG, NODE, 1)] + cn) != 0)[None, :]
        return ok_RC
    elif _op(PROG, NODE) == "threshold":
        keep_RC = _below(PROG, NODE, COLUMNS, sides, rm, cn, BM, BN)
        if _int(PROG, NODE, 0):
            keep_RC = keep_RC | hit_RC
        return keep_RC
    else:
        return tl.full([BM, BN], 1, tl.int1)


@triton.jit
def _curve(PROG: tl.constexpr, NODE: tl.constexpr, sides, dot_RC, rm):
    """f(u_i.v_j) of a low-rank weight."""
    x_RC = dot_RC * sides[_int(PROG, NODE, 4)] + sides[_int(PROG, NODE, 5)]
    if _int(PROG, NODE, 2) >= 0:
        x_RC = x_RC - tl.load(sides[_int(PROG, NODE, 2)] + rm)[:, None]
    if _name(PROG, NODE, 3) == "relu":
        return tl.maximum(x_RC, 0.0)
    elif _name(PROG, NODE, 3) == "softmax":
        return tl.exp2(x_RC * LOG2E)
    else:
        return x_RC


@triton.jit
def _label_weight(PROG: tl.constexpr, NODE: tl.constexpr, sides, same_RC, rm):
    if _int(PROG, NODE, 2) >= 0:
        count_R = tl.load(sides[_int(PROG, NODE, 2)] + rm).to(tl.float32)
        return tl.where(same_RC, 1.0, 0.0) / tl.maximum(count_R, 1.0)[:, None]
    else:
        return tl.where(same_RC, 1.0, 0.0)


@triton.jit
def _omega(
    PROG: tl.constexpr,
    NODE: tl.constexpr,
    sides,
    keep_RC,
    rm,
    cn,
    diag,
    row_start,
    col_start,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Omega of one atom; 0 for those that carry none."""
    if _op(PROG, NODE) == "diagonal":
        return tl.where(on_diagonal(rm, cn, diag), sides[_int(PROG, NODE, 0)], 0.0)
    elif _op(PROG, NODE) == "labels":
        same_RC = _hits(PROG, NODE, sides, rm, cn, diag, row_start, col_start)
        return _label_weight(PROG, NODE, sides, same_RC, rm)
    elif _marks(_op(PROG, NODE)):
        hit_RC = _hits(PROG, NODE, sides, rm, cn, diag, row_start, col_start)
        return tl.where(hit_RC, sides[_int(PROG, NODE, 1)], 0.0)
    elif _op(PROG, NODE) == "uniform":
        return tl.full([BM, BN], sides[_int(PROG, NODE, 0)], dtype=tl.float32)
    elif _op(PROG, NODE) == "lowrank":
        u = sides[_int(PROG, NODE, 0)]
        v = sides[_int(PROG, NODE, 1)]
        dot_RC = _features(u, v, rm, cn, _int(PROG, NODE, 7), BM, BN)
        curve_RC = _curve(PROG, NODE, sides, dot_RC, rm)
        if _int(PROG, NODE, 6):
            curve_RC = tl.where(keep_RC, curve_RC, 0.0)
        return curve_RC
    else:
        return tl.zeros([BM, BN], dtype=tl.float32)


@triton.jit
def weight(
    PROG: tl.constexpr,
    sides,
    keep_RC,
    rm,
    cn,
    diag,
    row_start,
    col_start,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """Omega of the tile in fp32, summed over the atoms of the spec."""
    w_RC = tl.zeros([BM, BN], dtype=tl.float32)
    for i in tl.static_range(_arity(PROG, 0)):
        w_RC += _omega(
            PROG, _int(PROG, 0, i), sides, keep_RC, rm, cn, diag, row_start, col_start, BM, BN
        )
    return w_RC


@triton.jit
def _beta(
    PROG: tl.constexpr,
    NODE: tl.constexpr,
    sides,
    hit_RC,
    rm,
    cn,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    b_RC = tl.where(hit_RC, sides[_int(PROG, NODE, 1)], 0.0)
    if _int(PROG, NODE, 2) >= 0:
        b_RC += tl.load(sides[_int(PROG, NODE, 2)] + rm)[:, None]
    if _int(PROG, NODE, 3) >= 0:
        b_RC += tl.load(sides[_int(PROG, NODE, 3)] + cn)[None, :]
    if _int(PROG, NODE, 4) >= 0:
        u = sides[_int(PROG, NODE, 4)]
        v = sides[_int(PROG, NODE, 5)]
        dot_RC = _features(u, v, rm, cn, _int(PROG, NODE, 6), BM, BN)
        b_RC += dot_RC * sides[_int(PROG, NODE, 0)]
    return b_RC


@triton.jit
def bias(PROG: tl.constexpr, sides, hit_RC, rm, cn, BM: tl.constexpr, BN: tl.constexpr):
    """Beta of the tile in fp32, summed over the atoms of the spec."""
    b_RC = tl.zeros([BM, BN], dtype=tl.float32)
    for i in tl.static_range(_arity(PROG, 0)):
        if _op(PROG, _int(PROG, 0, i)) == "bias":
            b_RC += _beta(PROG, _int(PROG, 0, i), sides, hit_RC, rm, cn, BM, BN)
    return b_RC
