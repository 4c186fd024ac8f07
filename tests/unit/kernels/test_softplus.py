"""Softplus reducer: back ends agree; equal to the SigLIP loss written out."""

import pytest
import torch
import torch.nn.functional as F

from common.kernels.pair import pair_softplus
from common.kernels.specs.weights import Diagonal, OnlyPositive
from tests.unit.kernels.cases import small_tiles, spec_cases, unit

__all__ = ["small_tiles"]

NAMES = ["all", "diagonal", "index", "labels", "positives", "exclude", "bias", "dead_rows"]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(37, 53), (1, 7), (9, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_blocked_equals_dense(
    name: str, shape: tuple[int, int], reduction: str, small_tiles: None
) -> None:
    n, m = shape
    results = []
    for backend in ("dense", "blocked"):
        leaves = [unit(n), unit(m, seed=1), torch.linspace(0.5, 1.5, n), torch.linspace(-1, 1, n)]
        leaves += [torch.tensor(9.0), torch.tensor(-3.0)]
        q, k, rho, offset, tau, bias = (t.double().clone().requires_grad_() for t in leaves)
        value = pair_softplus(
            q,
            k,
            tau,
            spec_cases(n, m)[name],
            bias=bias,
            row_offset=offset,
            row_scale=rho,
            reduction=reduction,
            backend=backend,
        )
        loss = (
            (value * torch.linspace(1, 2, n).double()).sum() if reduction == "none" else 2 * value
        )
        grads = torch.autograd.grad(loss, [q, k, rho, offset, tau, bias])
        results.append([value.detach(), *grads])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


def test_is_the_sigmoid_loss_of_siglip(small_tiles: None) -> None:
    q, k = unit(30), unit(30, seed=1)
    signs = 2 * torch.eye(30).double() - 1
    want = -F.logsigmoid(signs * (10.0 * q @ k.T - 10.0)).sum() / 30
    got = pair_softplus(q, k, 10.0, Diagonal(), bias=-10.0, reduction="mean", backend="blocked")
    torch.testing.assert_close(got, want)


def test_an_offset_of_minus_infinity_switches_a_row_off(small_tiles: None) -> None:
    q = unit(30).requires_grad_()
    offset = torch.zeros(30).double()
    offset[3] = -torch.inf
    spec = Diagonal() & OnlyPositive()
    rows = pair_softplus(q, unit(30, seed=1), 5.0, spec, row_offset=offset, backend="blocked")
    grad = torch.autograd.grad(rows.sum(), q)[0]
    assert rows[3] == 0
    assert grad[3].abs().max() == 0
    assert grad[4].abs().max() > 0


def test_wrong_offset_shape_and_reduction_are_refused() -> None:
    q = unit(3)
    with pytest.raises(ValueError, match=r"row_offset must be \(3,\)"):
        pair_softplus(q, q, 1.0, Diagonal(), row_offset=torch.zeros(4))
    with pytest.raises(ValueError, match="mean, sum or none"):
        pair_softplus(q, q, 1.0, Diagonal(), reduction="average")  # type: ignore[arg-type]
