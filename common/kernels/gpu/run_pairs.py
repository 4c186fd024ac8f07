"""Triton back end: the lse and grad kernels driven row chunk by row chunk, GEMMs left to cuBLAS.

Forward: `lse_kernel` writes (maximum, sum) partials per column split for the rows and per row block
for the columns; they are merged here in a fixed order (no atomics: two runs are bit-equal).
Backward: `grad_kernel` recomputes the logits of a chunk and stores their gradient G in a (C, M)
workspace; dq = G k and dk += G^T q are dense GEMMs with fp32 accumulation. G is formed in fp32, all
terms together, before it is rounded, so a confident row (P_ii near 1) keeps its gradient.

Cost: 4 units of 2*N*M*D flop (2 at cuBLAS speed), 3 where all exponentials are kept
(``problem.keep``), 2 for a symmetric problem in half mode; extra memory: workspace + kept tiles +
O((N + M) D). Rounding: fp32 inputs give fp32 G; bf16 and fp16 inputs give bf16 G (relative error of
dq about 4e-3). **Speeds, the tile table and the workspace size are unmeasured**: no GPU was at
hand; the kernels are checked in the interpreter and by compilation.

With unit-norm inputs and at least 512 rows and columns the exponentials use a fixed shift, exact
for scales up to about 120; sums too small to be exact turn into NaN rather than into a wrong loss.
"""

# Shape suffixes: N queries, M keys, D dim, S column splits, B row blocks, C rows of a chunk.

from typing import Any

import torch
from torch import Tensor

from ..core.linear import linear_backward
from ..core.problem import Gradients, Problem, RawStats, Upstream
from .launch import (
    WORKSPACE_BYTES,
    Plan,
    grad_dtype,
    kept_dtype,
    kept_rows,
    matrix,
    modules,
    on_device,
    part,
)
from .lowering import one_positive

_LN2 = 0.6931471805599453


def forward(problem: Problem, workspace: int = WORKSPACE_BYTES) -> RawStats:
    """Statistics of the sweep; see `RawStats`.

    Args:
        problem: inputs on a CUDA device (or anywhere in the interpreter).
        workspace: bytes that the column partials of one row chunk may take.

    Raises:
        ValueError: if `unsupported` gives a reason.
    """
    plan = Plan.make(problem)
    columns = plan.half or problem.columns
    keep = kept_rows(problem)
    kept = torch.empty(keep * problem.num_cols, dtype=kept_dtype(problem), device=plan.q.device)
    tile = plan.tile("rows" if keep else "lse")
    num_partials = 2 + 3 * plan.half
    per_row = 4.0 * num_partials * problem.num_cols / tile.rows if columns else 0.0
    parts: list[dict[str, Tensor]] = []
    column: dict[str, Tensor] = {}
    for r0, r1 in plan.chunks(tile, per_row, workspace, keep):
        e_CM = kept.view(-1, problem.num_cols)[r0:r1] if r1 <= keep else None
        rows, cols = lse_chunk(plan, r0, r1, columns, e_CM)
        parts.append(merge_splits(rows))
        column = merge_columns(column, cols)
    pos = [p.pop("pos") for p in parts if "pos" in p]
    row = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    if plan.half:
        row = _join_halves(row, column)
    # the backward derives the shift from the problem; the field carries what goes with `kept`
    flag = torch.cat(pos) if pos else plan.scale.new_full((), torch.nan)
    stats = finish_rows(plan, row)._replace(shift=flag, kept=kept)
    if problem.columns and not problem.half:
        col_lse = _finish(plan, column, problem.num_rows)
        stats = stats._replace(col_lse=col_lse)
    return stats


def kept_shapes(problem: Problem) -> tuple[tuple[int, ...], int, torch.dtype]:
    """Shape of ``shift``, number of elements and dtype of ``kept`` as `forward` returns them."""
    keep = kept_rows(problem)
    shift = (keep,) if keep and one_positive(problem.spec) else ()
    return shift, keep * problem.num_cols, kept_dtype(problem)


def finish_rows(plan: Plan, row: dict[str, Tensor]) -> RawStats:
    """Row statistics from the merged partials of all rows."""
    problem = plan.problem
    row_lse = _finish(plan, row, problem.num_cols)
    empty = row_lse.new_empty(0)
    row_mom, best, hit = empty, empty, empty
    if problem.moment:
        row_mom = finish_moment(row["mom"], row["sum"])
    if problem.top1:
        best = row["best"] * _LN2
        hit = ((row["hit"] >= row["best"]) & ~row["hit"].isneginf()).to(torch.float32)
    row_lin = row["lin"] if "lin" in row else torch.zeros_like(row_lse)
    linear = plan.linear()
    if linear is not None:
        row_lin = row_lin + linear * problem.factor[:, 0]
    return RawStats(row_lse, empty, row_lin, row_mom, best, hit, empty, empty)


def _finish(plan: Plan, sums: dict[str, Tensor], count: int) -> Tensor:
    may_be_empty = plan.program.masked and plan.program.has_tensors
    shift = plan.shift if plan.fixed else None
    return finish_lse(sums.get("max"), sums["sum"], shift, count, may_be_empty)


def lse_chunk(
    plan: Plan, r0: int, r1: int, columns: bool, kept: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Launch `lse_kernel` on rows r0:r1; row partials (S, C) and column partials (B, M).

    ``kept`` (C, M) receives the exponentials.
    """
    problem, tile = plan.problem, plan.tile("lse" if kept is None else "rows")
    num_rows, num_cols = r1 - r0, problem.num_cols
    splits, split_cols = plan.splits(tile, num_rows)
    blocks = -(-num_rows // tile.rows)
    outputs = {
        "max": not plan.fixed,
        "sum": True,
        "lin": plan.tiled_weights,
        "mom": problem.moment,
        "best": problem.top1,
        "hit": problem.top1,
        "pos": kept is not None and one_positive(problem.spec),
    }
    rows = {n: plan.scale.new_empty(splits, num_rows) for n, want in outputs.items() if want}
    cols: dict[str, Tensor] = {}
    if columns:
        names = [n for n in rows if n in ("max", "sum") or (plan.half and n != "mom")]
        cols = {n: plan.scale.new_empty(blocks, num_cols) for n in names}
    if plan.half:  # tiles left of the diagonal are not visited
        for name, value in cols.items():
            value.fill_(0.0 if name in ("sum", "lin") else -torch.inf)
    flags = plan.flags(tile, num_rows, num_cols)
    q, k = plan.q[r0:r1], plan.k
    copied = plan.copied(q, tile.rows, tile.depth), plan.copied(k, tile.cols, tile.depth)
    if tma := None not in copied:
        q, k = copied
        flags["EVEN_D"] = True  # what lies beyond D reads as 0
    with on_device(plan.q):
        modules()[0].lse_kernel[(blocks, splits)](
            q,
            k,
            plan.scale,
            plan.shift if plan.fixed else None,
            part(plan.row_scale, r0, r1),
            plan.program.rows(r0, r1),
            rows.get("max"),
            rows["sum"],
            rows.get("lin"),
            rows.get("mom"),
            rows.get("best"),
            rows.get("hit"),
            rows.get("pos"),
            kept,
            cols.get("max"),
            cols.get("sum"),
            cols.get("lin"),
            cols.get("best"),
            cols.get("hit"),
            num_rows,
            num_cols,
            plan.q.shape[1],
            plan.q.stride(0),
            plan.k.stride(0),
            0 if kept is None else kept.stride(0),
            problem.row_start + r0,
            problem.col_start,
            split_cols,
            FIXED=plan.fixed,
            COLUMNS=columns,
            TWO_MASKS=columns and plan.program.two_masks,
            HALF=plan.half,
            KEEP=kept is not None,
            POS="pos" in rows,
            LIN="lin" in rows,
            MOMENT=problem.moment,
            TOP=problem.top1,
            TMA=tma,
            FLAT=not plan.program.features,
            **flags,
        )
    return rows, cols


def _join_halves(row: dict[str, Tensor], column: dict[str, Tensor]) -> dict[str, Tensor]:
    """Row statistics of a symmetric problem from the pairs right of and left of the diagonal."""
    return merge_splits({name: torch.stack([row[name], column[name]]) for name in row})


def backward(
    problem: Problem,
    stats: RawStats,
    upstream: Upstream,
    need_q: bool,
    need_k: bool,
    workspace: int = WORKSPACE_BYTES,
    g_dtype: torch.dtype | None = None,
) -> Gradients:
    """Gradients for q, k and (through ``row_dot``) the scales; see `Gradients`.

    Args:
        problem: the sweep, as in the forward; for a shard, one key block.
        stats: final statistics (after merging shards).
        upstream: gradients of the loss for the statistics.
        need_q: whether dq (also for the scales) is wanted.
        need_k: whether dk is wanted.
        workspace: bytes for the chunk of G.
        g_dtype: dtype of G; default fp32 for fp32 inputs, else bf16. float16 is 8 times finer
            but loses entries below 6e-8 of the largest (N up to about 16k).
    """
    plan = Plan.make(problem)
    dtype = g_dtype or grad_dtype(problem)
    vectors, unit = _fold(plan, stats, upstream)
    q_ND, k_MD = plan.q.to(dtype), plan.k.to(dtype)
    both = need_k or problem.half
    dq_ND = plan.scale.new_zeros(plan.q.shape) if need_q else None
    dk_MD = plan.scale.new_zeros(plan.k.shape) if both else None
    tile = plan.tile("grad")
    keep = stats.kept.numel() // problem.num_cols
    chunks = plan.chunks(tile, float(problem.num_cols * dtype.itemsize), workspace, keep)
    buffer = plan.workspace(chunks, dtype)
    for r0, r1 in chunks:
        c0 = r0 if plan.half else 0
        g_CM = matrix(buffer, r1 - r0, problem.num_cols - c0)
        if r1 <= keep:
            _kept_chunk(plan, vectors, stats, r0, r1, g_CM)
        else:
            _grad_chunk(plan, vectors, r0, r1, c0, g_CM)
        if dq_ND is not None:
            product(g_CM, k_MD[c0:], dq_ND[r0:r1])
        if dk_MD is not None:
            rho = part(plan.row_scale, r0, r1)
            rows_CD = q_ND[r0:r1] if rho is None else (q_ND[r0:r1] * rho[:, None]).to(dtype)
            accumulate(dk_MD[c0:], g_CM, rows_CD)
    if plan.closed and vectors["c"] is not None:
        factor = 1.0 if plan.row_scale is None else plan.row_scale
        linear_backward(plan.closed, problem, vectors["c"], dq_ND, dk_MD, factor)
    dq, dk, row_dot = plan.scaled(dq_ND, dk_MD, unit)
    if problem.half and need_q:
        dq += dk
    return Gradients(dq, dk if need_k and not problem.half else dk.new_empty(0), row_dot)


def _fold(
    plan: Plan, stats: RawStats, upstream: Upstream
) -> tuple[dict[str, Tensor | None], Tensor]:
    """Per-row and per-column factors of G (relative to the largest, ``unit``) and that largest.

    Dividing by ``unit`` keeps G of order 1 whatever the reduction (1/N would underflow in fp16).
    """
    a, b, c, e = (None if g is None else g.to(torch.float32) for g in upstream)
    if plan.problem.half and b is not None:
        a, b = (b if a is None else a + b), None
    magnitudes = [g.abs().amax() for g in (a, b, c, e) if g is not None]
    unit = torch.stack(magnitudes).amax() if magnitudes else plan.scale.new_zeros(())
    unit = torch.where((unit > 0) & unit.isfinite(), unit, 1.0)
    a, b, c, e = (None if g is None else g / unit for g in (a, b, c, e))
    if e is not None:
        moment = e * (1 - stats.row_mom)
        a = moment if a is None else a + moment
    vectors: dict[str, Tensor | None] = {"c": c}
    for name, grad, lse in (
        ("a", a, stats.row_lse),
        ("e", e, stats.row_lse),
        ("b", b, stats.col_lse),
    ):
        vectors[name] = None if grad is None else _weighted(plan, grad, lse)
    for name, lse in (("row_lse", stats.row_lse), ("col_lse", stats.col_lse)):
        log2 = torch.where(lse.isneginf(), torch.inf, lse) / _LN2
        vectors[name] = None if plan.fixed else log2.contiguous()
    if plan.half:
        vectors["b"] = vectors["a"]
        vectors["col_lse"] = vectors["row_lse"]
    return vectors, unit


def _weighted(plan: Plan, grad: Tensor, lse: Tensor) -> Tensor:
    """Gradient of a log-sum-exp, divided by the denominator with a fixed shift; 0 where empty."""
    if plan.fixed:
        grad = grad * (plan.shift - lse).exp()
    return torch.where(lse.isneginf(), 0.0, grad).contiguous()


def _grad_chunk(
    plan: Plan, vectors: dict[str, Tensor | None], r0: int, r1: int, c0: int, g_CM: Tensor
) -> None:
    """Launch `grad_kernel` for rows r0:r1 and columns c0 onwards."""
    problem, tile = plan.problem, plan.tile("grad")
    num_rows, num_cols = g_CM.shape
    program = plan.program.columns(c0)
    row = {n: part(vectors[n], r0, r1) for n in ("row_lse", "a", "e", "c")}
    col: dict[str, Any] = {n: part(vectors[n], c0, None) for n in ("col_lse", "b")}
    rows, columns = row["a"] is not None, col["b"] is not None
    grid = (-(-num_rows // tile.rows), -(-num_cols // tile.cols))
    flags = plan.flags(tile, num_rows, num_cols)
    with on_device(plan.q):
        modules()[0].grad_kernel[grid](
            plan.q[r0:r1],
            plan.k[c0:],
            plan.scale,
            plan.shift if plan.fixed else None,
            part(plan.row_scale, r0, r1),
            program.rows(r0, r1),
            row["row_lse"] if rows else None,
            row["a"],
            row["e"],
            row["c"],
            col["col_lse"] if columns else None,
            col["b"],
            part(vectors["c"], c0, None) if plan.half else None,
            g_CM,
            num_rows,
            num_cols,
            plan.q.shape[1],
            plan.q.stride(0),
            plan.k.stride(0),
            g_CM.stride(0),
            problem.row_start + r0,
            problem.col_start + c0,
            FIXED=plan.fixed,
            ROWS=rows,
            COLUMNS=columns,
            TWO_MASKS=columns and plan.program.two_masks,
            HALF=plan.half,
            LIN=row["c"] is not None and program.weighted,
            MOMENT=row["e"] is not None,
            **flags,
        )


def _kept_chunk(
    plan: Plan, vectors: dict[str, Tensor | None], stats: RawStats, r0: int, r1: int, g_CM: Tensor
) -> None:
    """Launch `kept_grad_kernel` for rows r0:r1."""
    problem, tile = plan.problem, plan.tile("kept")
    num_rows, num_cols = g_CM.shape
    a, c, b = part(vectors["a"], r0, r1), part(vectors["c"], r0, r1), vectors["b"]
    pos = part(stats.shift, r0, r1) if stats.shift.ndim else None
    grid = (-(-num_rows // tile.rows), -(-num_cols // tile.cols))
    with on_device(plan.q):
        modules()[0].kept_grad_kernel[grid](
            stats.kept.view(-1, num_cols)[r0:r1],
            plan.program.rows(r0, r1),
            pos,
            a,
            c,
            b,
            g_CM,
            num_rows,
            num_cols,
            g_CM.stride(0),
            problem.row_start + r0,
            problem.col_start,
            PROG=plan.program.code,
            ROWS=a is not None,
            COLUMNS=b is not None,
            POS=pos is not None,
            LIN=c is not None and plan.program.weighted,
            BM=tile.rows,
            BN=tile.cols,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


# --- partial sums in a fixed order, and products in float32 ---------------------------------------


def merge_splits(partials: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reduce partials (P, L) to (L,): sums relative to the largest maximum (log2 units).

    Keys: "sum" (and "mom") relative to "max" where that exists, "lin", "pos", "best", "hit", "max".
    """
    merged: dict[str, Tensor] = {}
    fade = None
    if "max" in partials:
        top = partials["max"].amax(0)
        merged["max"] = top
        fade = (partials["max"] - torch.where(top.isneginf(), 0.0, top)).exp2()
    for name, value in partials.items():
        if name in ("sum", "mom"):
            merged[name] = (value if fade is None else value * fade).sum(0)
        elif name in ("lin", "pos"):
            merged[name] = value.sum(0)
        elif name in ("best", "hit"):
            merged[name] = value.amax(0)
    return merged


def merge_columns(total: dict[str, Tensor], partials: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the column partials (P, M) of a row chunk to the running totals (M,)."""
    merged = merge_splits(partials) if partials else {}
    if not total:
        return merged
    return merge_splits({name: torch.stack([total[name], merged[name]]) for name in merged})


def finish_lse(
    top: Tensor | None, total: Tensor, shift: Tensor | None, count: int, may_be_empty: bool
) -> Tensor:
    """Natural log-sum-exp from (maximum, sum) or from a sum with a fixed shift.

    -inf = empty, NaN stays.

    A maximum on the card drops NaN, so that the sum alone knows of it.

    Sums with a fixed shift that are too small to be exact (below 1e-32 per term) or infinite become
    NaN: the scale is too large for it, or the rows are no unit vectors. A sum of 0 counts as empty
    only where a mask can empty a row.
    """
    if shift is None:
        assert top is not None
        empty = top.isneginf() & ~total.isnan()
        return torch.where(empty, -torch.inf, (top + total.log2()) * _LN2)
    tiny = total < 1e-32 * count
    if may_be_empty:
        tiny &= total > 0
    return torch.where(tiny | total.isinf(), torch.nan, total.log() + shift)


def finish_moment(moment: Tensor, total: Tensor) -> Tensor:
    """Softmax-weighted mean of the logits; 0 for empty rows."""
    return torch.where(total > 0, moment / total, 0.0)


def product(g_CM: Tensor, k_MD: Tensor, out_CD: Tensor) -> None:
    """Write g k into out, accumulated and stored in fp32."""
    if g_CM.dtype == torch.float32:
        torch.mm(g_CM, k_MD, out=out_CD)
    elif g_CM.is_cuda:
        torch.ops.aten.mm.dtype_out(g_CM, k_MD, torch.float32, out=out_CD)
    else:
        torch.mm(g_CM.float(), k_MD.float(), out=out_CD)


def accumulate(total_MD: Tensor, g_CM: Tensor, q_CD: Tensor) -> None:
    """Add g^T q to total in fp32."""
    if g_CM.dtype == torch.float32:
        total_MD.addmm_(g_CM.T, q_CD)
    elif g_CM.is_cuda:
        torch.ops.aten.addmm.dtype_out(total_MD, g_CM.T, q_CD, torch.float32, out=total_MD)
    else:
        total_MD.addmm_(g_CM.T.float(), q_CD.float())
