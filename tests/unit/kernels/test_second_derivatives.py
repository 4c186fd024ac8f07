"""Gradients that were formed in the forward are differentiable once, and say so."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.kernels.row_loss import info_nce_rows, softplus_rows
from common.kernels.specs.weights import Diagonal
from tests.unit.kernels.cases import unit


def rows_loss(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    actual = info_nce_rows(q, k, scale, Diagonal(), backend="blocked")
    assert actual is not None
    return actual.total


def softplus_loss(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    total = softplus_rows(q, k, scale, Diagonal(), bias=-3.0, backend="blocked").total
    assert total is not None
    return total


def dense_softplus_loss(q: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    return softplus_rows(q, k, scale, Diagonal(), bias=-3.0, backend="dense").per_row.sum()


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    q, k = (unit(7, seed=seed).requires_grad_() for seed in (0, 1))
    return q, k, torch.tensor(5.0, dtype=q.dtype, requires_grad=True)


@pytest.mark.parametrize("loss", [rows_loss, softplus_loss])
def test_second_derivatives_are_refused(loss: Callable[..., Tensor]) -> None:
    inputs = leaves()
    grads = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    for grad in grads:
        with pytest.raises(RuntimeError, match="backend='dense'"):
            torch.autograd.grad(grad.square().sum(), inputs, retain_graph=True)


@pytest.mark.parametrize("loss", [rows_loss, softplus_loss])
def test_the_first_derivative_under_create_graph_is_the_same(loss: Callable[..., Tensor]) -> None:
    inputs = leaves()
    plain = torch.autograd.grad(loss(*inputs), inputs)
    graph = torch.autograd.grad(loss(*inputs), inputs, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, graph, strict=True))


def test_the_dense_back_end_has_them() -> None:
    q, k, scale = (x.detach() for x in leaves())

    def first(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return torch.autograd.grad(dense_softplus_loss(x, k, scale), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(first, q.clone().requires_grad_())
