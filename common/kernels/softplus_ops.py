"""Custom operators of the softplus reducer; see `ops` for the conventions."""

from typing import Any, Sequence  # noqa: UP035  # see ops.py

import torch
from torch import Tensor

from . import second_order
from .core import reference
from .core.problem import Problem, stat_dtype
from .dispatch import tiled_module
from .ops import (
    NAMESPACE,
    autocast_off,
    cast,
    fake_gradients,
    fresh,
    in_input_dtype,
    rebuild,
    scale_grads,
)


@torch.library.custom_op(f"{NAMESPACE}::pair_softplus", mutates_args=())
def pair_softplus_op(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    bias: Tensor,
    offset: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of `problem.SoftplusSums`."""
    with autocast_off(q):
        problem = rebuild(q, k, scale, row_scale, side, spec, flags)
        sums = tiled_module(backend).softplus_forward(problem, bias, offset)
    return fresh(*sums)  # type: ignore[no-any-return]


@pair_softplus_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    bias: Tensor,
    offset: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_sums(rebuild(q, k, scale, row_scale, side, spec, flags))


def _fake_sums(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    rows = problem.num_rows
    sizes = rows, *2 * (rows if problem.top1 else 0,)
    value, best, positive = (problem.q.new_empty(n, dtype=problem.dtype) for n in sizes)
    return value, best, positive


@torch.library.custom_op(f"{NAMESPACE}::pair_softplus_backward", mutates_args=())
def pair_softplus_backward_op(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    bias: Tensor,
    offset: Tensor | None,
    side: Sequence[Tensor],
    upstream: Tensor,
    spec: str,
    flags: Sequence[int],
    backend: str,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dq, dk in the dtypes of the inputs; row_dot, row_sum, d_offset."""
    with autocast_off(q):
        problem = rebuild(q, k, scale, row_scale, side, spec, flags)
        run = tiled_module(backend).softplus_backward
        grads = run(problem, bias, offset, upstream, need_q, need_k)
    zero = upstream.new_zeros(len(q), dtype=stat_dtype(q))
    d_offset = zero if grads.d_offset is None else grads.d_offset
    return *in_input_dtype(grads, q, k), grads.row_sum, d_offset


@pair_softplus_backward_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    bias: Tensor,
    offset: Tensor | None,
    side: Sequence[Tensor],
    upstream: Tensor,
    spec: str,
    flags: Sequence[int],
    backend: str,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    vectors = [q.new_empty(q.shape[0], dtype=stat_dtype(q)) for _ in range(2)]
    return *fake_gradients(q, k, need_q, need_k), vectors[0], vectors[1]


@torch.library.custom_op(f"{NAMESPACE}::pair_softplus_sum", mutates_args=())
def pair_softplus_sum_op(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    bias: Tensor,
    offset: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sum over all rows, the parts of `SoftplusSums`, and in the same sweep the sum's gradients.

    dq, dk, row_dot, row_sum, d_offset. The rows may be differentiated as well, which then costs a
    sweep of the backward.
    """
    with autocast_off(q):
        problem = rebuild(q, k, scale, row_scale, side, spec, flags)
        sums, grads = tiled_module(backend).softplus_fused(problem, bias, offset, need_q, need_k)
    assert grads.row_sum is not None
    assert grads.d_offset is not None
    ready = grads.dq, grads.dk, grads.row_dot, grads.row_sum, grads.d_offset
    return fresh(sums.value.sum(), *sums, *ready)  # type: ignore[no-any-return]


@pair_softplus_sum_op.register_fake
def _(
    q: Tensor,
    k: Tensor,
    scale: Tensor,
    row_scale: Tensor | None,
    bias: Tensor,
    offset: Tensor | None,
    side: Sequence[Tensor],
    spec: str,
    flags: Sequence[int],
    backend: str,
    need_q: bool,
    need_k: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = stat_dtype(q)
    sums = _fake_sums(rebuild(q, k, scale, row_scale, side, spec, flags))
    total, row_sum, d_offset = (q.new_empty(n, dtype=dtype) for n in ((), len(q), len(q)))
    return total, *sums, *fake_gradients(q, k, need_q, need_k, dtype), row_sum, d_offset


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*_kept(ctx, inputs))


def _kept(ctx: Any, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Tensors that the backward needs; what else it needs is put into the context."""
    q, k, scale, row_scale, bias, offset, side, ctx.spec, ctx.flags, ctx.backend, *_ = inputs
    ctx.has_row_scale, ctx.has_offset, ctx.num_side = (
        row_scale is not None,
        offset is not None,
        len(side),
    )
    optional = [t for t in (row_scale, offset) if t is not None]
    return [q, k, scale, bias, *optional, *side]


def _backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
    q, k, scale, bias, *rest = ctx.saved_tensors
    row_scale = rest.pop(0) if ctx.has_row_scale else None
    offset = rest.pop(0) if ctx.has_offset else None
    need_q, need_k, *need = ctx.needs_input_grad[:6]
    if second_order.needed_now((upstream,)):
        inputs = q, k, scale, row_scale, bias, offset
        return *_again(ctx, inputs, rest, (upstream,)), [None] * len(rest), None, None, None
    dq, dk, *vectors = pair_softplus_backward_op(
        q,
        k,
        scale,
        row_scale,
        bias,
        offset,
        rest,
        upstream,
        ctx.spec,
        ctx.flags,
        ctx.backend,
        need_q or need[0] or need[1],
        need_k,
    )
    small = _small_grads(vectors, scale, row_scale, bias, offset, need)
    return (
        dq if need_q else None,
        dk if need_k else None,
        *small,
        [None] * len(rest),
        None,
        None,
        None,
    )


def _small_grads(
    vectors: list[Tensor],
    scale: Tensor,
    row_scale: Tensor | None,
    bias: Tensor,
    offset: Tensor | None,
    need: list[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of scale, row_scale, bias, offset from row_dot, row_sum, d_offset."""
    row_dot, row_sum, d_offset = vectors
    scales = scale_grads(row_dot, scale, row_scale, need[0], need[1])
    d_bias = row_sum.sum().to(bias.dtype).reshape(bias.shape) if need[2] else None
    return *scales, d_bias, d_offset.to(offset.dtype) if need[3] and offset is not None else None


pair_softplus_op.register_autograd(_backward, setup_context=_save)


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*_kept(ctx, inputs), *output[4:])


def _sum_backward(ctx: Any, g: Tensor | None, g_rows: Tensor | None, *_: Any) -> tuple[Any, ...]:
    q, k, scale, bias, *rest = ctx.saved_tensors
    *rest, dq, dk, row_dot, row_sum, d_offset = rest
    row_scale = rest.pop(0) if ctx.has_row_scale else None
    offset = rest.pop(0) if ctx.has_offset else None
    need_q, need_k, *need = ctx.needs_input_grad[:6]
    tail = ([None] * ctx.num_side, None, None, None, None, None)
    if second_order.needed_now((g, g_rows)):
        inputs = q, k, scale, row_scale, bias, offset
        return *_again(ctx, inputs, rest, (g_rows, g)), *tail
    ready = dq, dk, row_dot, row_sum, d_offset
    parts = [] if g is None else [tuple(x * g for x in ready)]
    if g_rows is not None:
        parts.append(
            pair_softplus_backward_op(
                q,
                k,
                scale,
                row_scale,
                bias,
                offset,
                rest,
                g_rows,
                ctx.spec,
                ctx.flags,
                ctx.backend,
                need_q or need[0] or need[1],
                need_k,
            )
        )
    if not parts:
        return None, None, None, None, None, None, *tail
    dq, dk, *vectors = parts[0] if len(parts) == 1 else (a + b for a, b in zip(*parts, strict=True))
    small = _small_grads(vectors, scale, row_scale, bias, offset, need)
    dq_out, dk_out = (x if needed else None for x, needed in ((dq, need_q), (dk, need_k)))
    grads = cast(dq_out, q.dtype), cast(dk_out, k.dtype), *small
    return *grads, *tail


def _again(
    ctx: Any,
    inputs: tuple[Tensor | None, ...],
    side: list[Tensor],
    upstream: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Gradients with a graph; upstream of the rows and, where there is one, of their sum."""

    def outputs(
        q: Tensor,
        k: Tensor,
        scale: Tensor,
        row_scale: Tensor | None,
        bias: Tensor,
        offset: Tensor | None,
    ) -> tuple[Tensor, ...]:
        problem = rebuild(q, k, scale, row_scale, side, ctx.spec, ctx.flags)
        rows = reference.softplus(problem, bias, offset).value
        return (rows, rows.sum())[: len(upstream)]

    return second_order.gradients(outputs, upstream, inputs, ctx.needs_input_grad[:6])


pair_softplus_sum_op.register_autograd(_sum_backward, setup_context=_save_sum)
