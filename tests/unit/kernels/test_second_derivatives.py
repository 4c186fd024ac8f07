"""Second derivatives of the fused operations, whose gradients are formed in the forward."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels.pair import pair_stats
from common.kernels.row_loss import info_nce_rows, softplus_rows
from common.kernels.specs.weights import Diagonal, ExcludePositive, nt_xent_spec
from tests.unit.kernels.cases import unit


def rows_loss(q: Tensor, k: Tensor, scale: Tensor | float, backend: str) -> Tensor:
    """One-sided InfoNCE, its gradient formed in the forward, and one of its rows."""
    fused = info_nce_rows(q, k, scale, Diagonal(), backend=backend)
    if fused is None:
        stats = pair_stats(q, k, scale, Diagonal(), backend=backend)
        rows = stats.row_lse - stats.row_lin
        return rows.sum() + rows[0].square()
    return fused.total + fused.per_row[0].square()


def rows_joined(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
    """The same with the positive joined in the loss."""
    spec = Diagonal() & ExcludePositive()
    fused = info_nce_rows(q, k, scale, spec, join=True, backend=backend)
    if fused is None:
        stats = pair_stats(q, k, scale, spec, backend=backend)
        return F.softplus(stats.row_lse - stats.row_lin).sum()
    return fused.total


def stats_loss(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
    """All differentiable statistics of a set against itself and of two sets."""
    z = torch.cat([q, k])
    spec = nt_xent_spec(len(q))
    own = pair_stats(z, z, scale, spec, columns=True, backend=backend)
    two = pair_stats(q, k, scale, Diagonal(), columns=True, moment=True, backend=backend)
    parts = [own.row_lse, own.row_lin, two.row_lse, two.col_lse, two.row_lin, two.row_mom]
    return torch.cat([part for part in parts if part is not None]).square().sum()


def softplus_loss(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
    """Sum whose gradient is formed in the forward, and one of its rows."""
    rows = softplus_rows(q, k, scale, Diagonal(), bias=-3.0, backend=backend)
    total = rows.per_row.sum() if rows.total is None else rows.total
    return total + rows.per_row[0].square()


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    q, k = (unit(3, 4, seed=seed).requires_grad_() for seed in (0, 1))
    return q, k, torch.tensor(5.0, dtype=q.dtype, requires_grad=True)


@pytest.mark.parametrize("loss", [rows_loss, rows_joined, stats_loss, softplus_loss])
def test_second_derivatives_are_those_of_the_dense_form(loss: Callable[..., Tensor]) -> None:
    found = []
    for backend in ("blocked", "dense"):
        inputs = leaves()
        grads = torch.autograd.grad(loss(*inputs, backend), inputs, create_graph=True)
        penalty = sum((grad.square().sum() for grad in grads), torch.zeros(()))
        found.append((*grads, *torch.autograd.grad(penalty, inputs)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("loss", [rows_loss, rows_joined, stats_loss, softplus_loss])
def test_gradgradcheck(loss: Callable[..., Tensor]) -> None:
    assert torch.autograd.gradgradcheck(lambda *x: loss(*x, "blocked"), leaves())


@pytest.mark.parametrize("backend", ["blocked", "triton"])
def test_a_tiled_back_end_refuses_transforms(backend: str) -> None:
    q, k, _ = leaves()
    with pytest.raises(ValueError, match="backend='auto' or 'dense'; got backend="):
        torch.func.jvp(lambda x: rows_loss(x, k, 5.0, backend), (q,), (k,))
