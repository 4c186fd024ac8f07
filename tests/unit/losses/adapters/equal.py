"""Loss and gradients of two losses on the same inputs."""

from collections.abc import Callable

import torch
from torch import Tensor


def matrices(count: int = 2, rows: int = 9, dim: int = 6) -> list[Tensor]:
    """Raw embeddings in float64 that require gradient."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(count, rows, dim, dtype=torch.float64, generator=generator)
    return [x.requires_grad_() for x in drawn.unbind()]


def assert_same(
    actual: Callable[[], Tensor],
    expected: Callable[[], Tensor],
    *inputs: Tensor,
    tolerance: float = 1e-10,
) -> None:
    """Value and gradients agree, and some gradient is not zero."""
    results = []
    for loss in (actual(), expected()):
        results.append([loss.detach(), *torch.autograd.grad(loss, inputs, retain_graph=True)])
    assert any(grad.abs().max() > 0 for grad in results[1][1:])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
