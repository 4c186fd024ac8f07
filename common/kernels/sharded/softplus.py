"""Softplus sums (SigLIP, positives of Hydra) over a batch that is split over ranks."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from common.kernels.core.problem import Gradients, Problem, SoftplusSums
from common.kernels.sharded.gather import gathered_softplus, gathered_sum
from common.kernels.sharded.plan import (
    Backend,
    Plan,
    Sharding,
    autocast_off,
    make_plan,
    ring_sum,
    scale_grad,
)


@_disable_dynamo
def sharded_softplus(
    problem: Problem, bias: Tensor, offset: Tensor | None, backend: Backend, sharding: Sharding
) -> SoftplusSums:
    """Softplus sums of the local rows against the keys of all ranks; differentiable.

    Args:
        problem: As `sharded_stats`.
        bias: 0-dim, added to all logits.
        offset: (n,) added per row outside the sign, or None.
        backend: Runs one block.
        sharding: Group and mode.

    Returns:
        The sums (n,), and the largest logits if the problem wants them.
    """
    plan = make_plan(problem, sharding)
    inputs = problem.q, problem.k, problem.scale, problem.row_scale, bias, offset
    with autocast_off(problem.q):
        parts = _Softplus.apply(*inputs, plan, backend)  # type: ignore[no-untyped-call]
    return SoftplusSums(*parts)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, scale: Tensor, row_scale: Tensor | None, bias: Tensor,
        offset: Tensor | None, plan: Plan, backend: Backend,
    ) -> SoftplusSums:  # fmt: skip
        ctx.plan, ctx.backend = plan, backend
        whole = plan.bound(q, k, scale, row_scale)
        found: list[SoftplusSums] = []
        keys = k
        if plan.ring:

            def visit(owner: int, fixed: Sequence[Tensor], _: Sequence[Tensor]) -> Sequence[Tensor]:
                block = plan.block(whole, fixed[0], owner)
                found.append(backend.softplus_forward(block, bias, offset))
                return []

            plan.travel([whole.k], [], visit)
        else:
            total, keys = gathered_softplus(
                plan, whole, lambda block: backend.softplus_forward(block, bias, offset)
            )
            found.append(total)
        ctx.save_for_backward(q, keys, scale, row_scale, bias, offset)
        sums = reduce(SoftplusSums.join, found)
        ctx.mark_non_differentiable(sums.best, sums.positive)
        return sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        q, keys, scale, row_scale, bias, offset = ctx.saved_tensors
        whole = plan.bound(q, keys, scale, row_scale)
        need_q, need_k, *need = ctx.needs_input_grad[:6]
        need_dq = need_q or any(need)  # row sums come with dq
        backend: Backend = ctx.backend

        def block_gradients(block: Problem, _: Sequence[Tensor]) -> Gradients:
            return backend.softplus_backward(block, bias, offset, upstream, need_dq, need_k)

        with autocast_off(q):
            collect = ring_sum if plan.ring else gathered_sum
            grads = collect(plan, whole, [], block_gradients, need_k)
        assert grads.row_sum is not None
        return (
            grads.dq.to(q.dtype) if need_q else None,
            grads.dk.to(keys.dtype) if need_k else None,
            scale_grad(grads.row_dot, whole) if need[0] else None,
            (scale * grads.row_dot).to(row_scale.dtype) if need[1] else None,
            grads.row_sum.sum().to(bias.dtype) if need[2] else None,
            grads.d_offset.to(offset.dtype) if need[3] and grads.d_offset is not None else None,
            None,
            None,
        )
