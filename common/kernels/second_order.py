"""Gradients that can be differentiated again: the dense equations, at any size.

The fused operations form their gradients without a graph. Under ``create_graph=True`` their
backward takes this way instead, which stores the matrix of all pairs.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .core import reference
from .core.problem import Problem
from .crossover import needs_plain


def needed_now(upstream: Iterable[Tensor | None]) -> bool:
    """Whether the backward under way may be differentiated or transformed itself.

    Batched gradients (``is_grads_batched``) show in the tensors alone.
    """
    if torch.is_grad_enabled() or needs_plain():
        return True
    return not torch.compiler.is_compiling() and any(
        torch._C._functorch.is_legacy_batchedtensor(x) for x in upstream if x is not None
    )


def gradients(
    outputs: Callable[..., Sequence[Tensor]],
    upstream: Sequence[Tensor | None],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of a function for its inputs, as a graph on inputs and upstream.

    Args:
        outputs: the function of the inputs.
        upstream: gradient for each output; None where there is none.
        inputs: what is differentiated for.
        needed: for which of them a gradient is wanted; the others get None.
    """
    device = next(x.device.type for x in inputs if x is not None)
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        # Views: an input may depend on another one, which is no part of this function.
        own = [None if x is None else x.view_as(x) for x in inputs]
        joined = zip(outputs(*own), upstream, strict=True)
        used = [(value, above) for value, above in joined if above is not None]
        leaves = [x for x, need in zip(own, needed, strict=True) if need and x is not None]
        if not used or not leaves:
            return (None,) * len(inputs)
        values, above = zip(*used, strict=True)
        found = iter(
            torch.autograd.grad(
                values, leaves, above, create_graph=True, allow_unused=True, materialize_grads=True
            )
        )
    present = (need and x is not None for x, need in zip(inputs, needed, strict=True))
    return tuple(next(found) if yes else None for yes in present)


def statistics(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The differentiable statistics row_lse, col_lse, row_lin, row_mom."""
    stats = reference.forward(problem)
    return stats.row_lse, stats.col_lse, stats.row_lin, stats.row_mom
