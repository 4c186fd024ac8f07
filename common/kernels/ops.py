"""Custom operators of the tiled back ends: opaque to autograd, torch.compile and autocast.

A spec travels as a static description and a list of tensors (`specs.encode`). Every operator
computes with autocast off, in the dtype of the statistics. Second derivatives come from the dense
equations, see `second_order`.
"""

from typing import Any, Sequence  # noqa: UP035  # torch 2.6 reads schemas from these alone

import torch
from torch import Tensor

from . import second_order
from .blocked.rows import row_values, valid_rows
from .blocked.tiling import kept_tiles
from .core.problem import (
    PRECISIONS,
    Gradients,
    Problem,
    RawStats,
    Upstream,
    stat_dtype,
)
from .dispatch import tiled_module
from .specs.weights import decode

NAMESPACE = __name__.split(".")[0]  # also published under another name; one process may import both

_Output = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def rebuild(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    row_scale: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
) -> Problem:
    """Rebuild the problem; `flags` as made by `flags_of`, k = None stands for k = q (half)."""
    row_start, col_start, columns, moment, top1, unit_norm, keep, deterministic, rounding = flags
    return Problem(
        q,
        q if k is None else k,
        scale,
        decode(spec, side),
        row_scale,
        row_start,
        col_start,
        bool(columns),
        bool(moment),
        bool(top1),
        bool(unit_norm),
        k is None,
        keep,
        bool(deterministic),
        PRECISIONS[rounding],
    )


def flags_of(problem: Problem) -> list[int]:
    """Static fields of a problem as ints for the operator schema."""
    p = problem
    rounding = PRECISIONS.index(p.precision)
    flags = (p.columns, p.moment, p.top1, p.unit_norm, p.keep, p.deterministic, rounding)
    return [p.row_start, p.col_start, *(int(f) for f in flags)]


def autocast_off(q: Tensor) -> torch.autocast:
    """Context without autocast on the device of q; there is none for meta tensors."""
    return torch.autocast("cpu" if q.is_meta else q.device.type, enabled=False)


# --- statistics with exponential sums -----------------------------------------------------------


@torch.library.custom_op(f"{NAMESPACE}::pair_stats", mutates_args=())
def pair_stats_op(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    row_scale: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
) -> _Output:
    """The fields of `RawStats`."""
    with autocast_off(q):
        problem = rebuild(q, k, scale, row_scale, side, spec, flags)
        stats = tiled_module(backend).forward(problem)
    return fresh(*stats)  # type: ignore[no-any-return]


@pair_stats_op.register_fake
def _(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    row_scale: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
) -> _Output:
    problem = rebuild(q, k, scale, row_scale, side, spec, flags)
    num_rows, dtype = problem.num_rows, problem.dtype
    sizes = (
        num_rows,
        problem.num_cols if problem.columns and not problem.half else 0,
        num_rows,
        num_rows if problem.moment else 0,
        num_rows if problem.top1 else 0,
        num_rows if problem.top1 else 0,
    )
    shift, kept, kept_dtype = (), kept_tiles(problem)[1], dtype
    if backend == "triton":
        shift, kept, kept_dtype = tiled_module(backend).kept_shapes(problem)
    vectors = [q.new_empty(size, dtype=dtype) for size in sizes]
    return (*vectors, q.new_empty(shift, dtype=dtype), q.new_empty(kept, dtype=kept_dtype))  # type: ignore[return-value]


@torch.library.custom_op(f"{NAMESPACE}::pair_stats_backward", mutates_args=())
def pair_stats_backward_op(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    row_scale: Tensor | None,
    side: Sequence[Tensor],
    stats: Sequence[Tensor],
    upstream: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk in the dtypes of q and k; row_dot. An empty upstream vector stands for zero."""
    with autocast_off(q):
        problem = rebuild(q, k, scale, row_scale, side, spec, flags)
        vectors = Upstream(*(g if g.numel() else None for g in upstream))
        run = tiled_module(backend).backward
        grads = run(problem, RawStats(*stats), vectors, need_q, need_k)
    return in_input_dtype(grads, q, k)


@pair_stats_backward_op.register_fake
def _(
    q: Tensor,
    k: Tensor | None,
    scale: Tensor,
    row_scale: Tensor | None,
    side: Sequence[Tensor],
    stats: Sequence[Tensor],
    upstream: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return fake_gradients(q, k, need_q, need_k)


def in_input_dtype(grads: Gradients, q: Tensor, k: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Dq and dk in the dtypes of their inputs, row_dot as it is."""
    dk = grads.dk.to(q.dtype if k is None else k.dtype)
    return fresh(grads.dq.to(q.dtype), dk, grads.row_dot)  # type: ignore[no-any-return]


def fresh(*outputs: Tensor) -> Any:
    """The outputs, each absent one with storage of its own: an operator must not alias."""
    return tuple(x if x.numel() else x.new_empty(x.shape) for x in outputs)


def fake_gradients(
    q: Tensor, k: Tensor | None, need_q: bool, need_k: bool, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes of dq, dk, row_dot; gradients in `dtype` or in those of the inputs."""
    other = q if k is None else k
    dk_shape = other.shape if k is not None and need_k else (0,)
    dk = other.new_empty(dk_shape, dtype=dtype or other.dtype)
    dq = q.new_empty(q.shape if need_q else (0,), dtype=dtype or q.dtype)
    return dq, dk, q.new_empty(q.shape[0] if need_q else 0, dtype=stat_dtype(q))


def _save_stats(ctx: Any, inputs: tuple[Any, ...], output: _Output) -> None:
    q, k, scale, row_scale, side, ctx.spec, ctx.flags, ctx.backend = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])
    ctx.has_k, ctx.has_row_scale, ctx.num_side = k is not None, row_scale is not None, len(side)
    optional = [t for t in (k, row_scale) if t is not None]
    ctx.save_for_backward(q, scale, *optional, *side, *output)


def _restore(ctx: Any) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, list[Tensor]]:
    q, scale, *rest = ctx.saved_tensors
    k = rest.pop(0) if ctx.has_k else None
    row_scale = rest.pop(0) if ctx.has_row_scale else None
    return q, k, scale, row_scale, rest


def _stats_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Any, ...]:
    q, k, scale, row_scale, rest = _restore(ctx)
    side, stats = rest[: ctx.num_side], rest[ctx.num_side :]
    need_q, need_k, need_scale, need_row_scale = ctx.needs_input_grad[:4]
    if second_order.needed_now(upstream):
        grads = second_order.gradients(
            lambda *inputs: second_order.statistics(_problem(ctx, inputs, side)),
            upstream[:4],
            (q, k, scale, row_scale),
            ctx.needs_input_grad[:4],
        )
        return *grads, *_none_grads(ctx, 3)
    empty = stats[0].new_empty(0)
    vectors = [empty if g is None else g for g in upstream[:4]]
    dots = need_q or need_scale or need_row_scale
    dq, dk, row_dot = pair_stats_backward_op(
        q, k, scale, row_scale, side, stats, vectors, ctx.spec, ctx.flags, ctx.backend, dots, need_k
    )
    d_scale, d_row_scale = scale_grads(row_dot, scale, row_scale, need_scale, need_row_scale)
    return (
        dq if need_q else None,
        dk if need_k else None,
        d_scale,
        d_row_scale,
        *_none_grads(ctx, 3),
    )


def scale_grads(
    row_dot: Tensor, scale: Tensor, row_scale: Tensor | None, need: bool, need_row: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of scale and row_scale from row_dot."""
    d_scale, d_row_scale = None, None
    if need:
        dots = row_dot if row_scale is None else row_dot * row_scale
        d_scale = dots.sum().to(scale.dtype).reshape(scale.shape)
    if need_row and row_scale is not None:
        d_row_scale = (scale * row_dot).to(row_scale.dtype)
    return d_scale, d_row_scale


def _problem(ctx: Any, inputs: tuple[Any, Any, Any, Any], side: list[Tensor]) -> Problem:
    """The problem of q, k, scale and row_scale, for the dense equations."""
    return rebuild(*inputs, side, ctx.spec, ctx.flags)


def _none_grads(ctx: Any, count: int) -> tuple[Any, ...]:
    return ([None] * ctx.num_side, *([None] * count))


pair_stats_op.register_autograd(_stats_backward, setup_context=_save_stats)


# --- InfoNCE over rows, gradients formed in the forward -----------------------------------------


@torch.library.custom_op(f"{NAMESPACE}::info_nce_rows", mutates_args=())
def info_nce_rows_op(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
    join: bool,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sum of `row_values` over valid rows; row_lse, row_lin, row_hit; dq, dk, row_dot of the sum.

    The gradient of the sum is ready; row_lse and row_lin may be differentiated as well, which then
    costs a sweep of the backward.
    """
    with autocast_off(q):
        problem = rebuild(q, k, scale, row_scale, side, spec, flags)
        stats, grads = tiled_module(backend).info_nce_rows(problem, need_q, need_k, join)
        valid = valid_rows(problem, stats.row_lse)
        total = torch.where(valid, row_values(stats.row_lse, stats.row_lin, join), 0).sum()
    vectors = total, stats.row_lse, stats.row_lin, stats.row_hit
    return fresh(*vectors, grads.dq, grads.dk, grads.row_dot)  # type: ignore[no-any-return]


@info_nce_rows_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
    join: bool,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    problem = rebuild(q, k, scale, row_scale, side, spec, flags)
    rows, dtype = problem.num_rows, problem.dtype
    total, lse, lin = (q.new_empty(shape, dtype=dtype) for shape in ((), (rows,), (rows,)))
    hit = q.new_empty(rows if problem.top1 else 0, dtype=dtype)
    return total, lse, lin, hit, *fake_gradients(q, k, need_q, need_k, dtype)


def _save_fused(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, scale, row_scale, side, ctx.spec, ctx.flags, ctx.backend, ctx.join, *_ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[3:])
    ctx.has_k, ctx.has_row_scale, ctx.num_side = True, row_scale is not None, len(side)
    optional = [t for t in (k, row_scale) if t is not None]
    ctx.save_for_backward(q, scale, *optional, *side, *output[1:3], *output[4:])


def _fused_backward(
    ctx: Any, g: Tensor | None, g_lse: Tensor | None, g_lin: Tensor | None, *_: Any
) -> tuple[Any, ...]:
    q, k, scale, row_scale, rest = _restore(ctx)
    side, (row_lse, row_lin, dq, dk, row_dot) = rest[: ctx.num_side], rest[ctx.num_side :]
    need_q, need_k, need_scale, need_row_scale = ctx.needs_input_grad[:4]
    if second_order.needed_now((g, g_lse, g_lin)):

        def outputs(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
            problem = _problem(ctx, inputs, side)
            lse, _, lin, _ = second_order.statistics(problem)
            values = torch.where(valid_rows(problem, lse), row_values(lse, lin, ctx.join), 0)
            return values.sum(), lse, lin

        inputs = q, k, scale, row_scale
        again = second_order.gradients(outputs, (g, g_lse, g_lin), inputs, ctx.needs_input_grad[:4])
        return *again, *_none_grads(ctx, 6)
    parts = [] if g is None else [(dq * g, dk * g, row_dot * g)]
    if g_lse is not None or g_lin is not None:
        empty = row_lse.new_empty(0)
        stats = [row_lse, empty, row_lin, *3 * [empty], row_lse.new_full((), torch.nan), empty]
        vectors = [empty if x is None else x for x in (g_lse, None, g_lin, None)]
        dots = need_q or need_scale or need_row_scale
        parts.append(
            pair_stats_backward_op(
                q,
                k,
                scale,
                row_scale,
                side,
                stats,
                vectors,
                ctx.spec,
                ctx.flags,
                ctx.backend,
                dots,
                need_k,
            )
        )
    if not parts:
        return None, None, None, None, *_none_grads(ctx, 6)
    dq, dk, row_dot = parts[0] if len(parts) == 1 else (a + b for a, b in zip(*parts, strict=True))
    scales = scale_grads(row_dot, scale, row_scale, need_scale, need_row_scale)
    dq_out, dk_out = (x if need else None for x, need in ((dq, need_q), (dk, need_k)))
    assert k is not None
    grads = cast(dq_out, q.dtype), cast(dk_out, k.dtype), *scales
    return *grads, *_none_grads(ctx, 6)


class _Once(torch.autograd.Function):
    """Gradients as they are, which depend on the inputs and refuse to be differentiated."""

    @staticmethod
    def forward(ctx: Any, num_inputs: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.view_as(g) for g in tensors[num_inputs:])

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "a loss over several ranks is differentiable once: take gather=False for second "
            "derivatives (gradient penalties, Hessians)"
        )


def differentiable_once(
    inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """What a sharded backward returns; under ``create_graph=True`` nothing differentiates it again.

    Autograd would leave out how the gradients depend on the inputs, without a word.
    """
    if not torch.is_grad_enabled():  # an ordinary backward builds no graph
        return tuple(grads)
    outputs: tuple[Tensor | None, ...] = _Once.apply(  # type: ignore[no-untyped-call]
        len(inputs), *inputs, *grads
    )
    return outputs


def cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """X in a dtype; None stays None."""
    return None if x is None else x.to(dtype)


info_nce_rows_op.register_autograd(_fused_backward, setup_context=_save_fused)
