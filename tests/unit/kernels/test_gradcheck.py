"""Gradients of the dense back end against finite differences, and non-linear compositions."""

import pytest
import torch
from torch import Tensor

from common.kernels.pair import pair_softplus, pair_stats
from tests.unit.kernels.cases import spec_cases, unit

N, M = 4, 5
CASES = spec_cases(N, M)


def inputs() -> tuple[Tensor, ...]:
    """q, k, scale, row_scale, bias, row_offset that need gradients."""
    small = (
        torch.tensor(1.7),
        torch.linspace(0.5, 1.5, N),
        torch.tensor(-0.4),
        torch.linspace(-1, 1, N),
    )
    tensors = (unit(N, 3), unit(M, 3, seed=1), *(t.double() for t in small))
    return tuple(t.clone().requires_grad_() for t in tensors)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("name", CASES)
def test_statistics(name: str, backend: str) -> None:
    def finite(q: Tensor, k: Tensor, scale: Tensor, row_scale: Tensor) -> Tensor:
        stats = pair_stats(
            q,
            k,
            scale,
            CASES[name],
            columns=True,
            moment=True,
            row_scale=row_scale,
            backend=backend,
        )
        values = torch.cat([v for v in stats if v is not None])
        return values[values.isfinite()].sin()  # a loss may bend the statistics as it likes

    assert torch.autograd.gradcheck(finite, inputs()[:4], fast_mode=True)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("name", ["diagonal", "labels", "exclude", "positives", "bias"])
def test_softplus(name: str, backend: str) -> None:
    def values(
        q: Tensor, k: Tensor, t: Tensor, rho: Tensor, bias: Tensor, offset: Tensor
    ) -> Tensor:
        return pair_softplus(
            q, k, t, CASES[name], bias=bias, row_offset=offset, row_scale=rho, backend=backend
        ).sin()

    assert torch.autograd.gradcheck(values, inputs(), fast_mode=True)
