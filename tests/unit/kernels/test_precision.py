"""Rounding of the blocked back end: float32 and half precision against float64, extreme inputs."""

import pytest
import torch
from torch import Tensor

from common.kernels.pair import info_nce, pair_stats
from common.kernels.specs.weights import Diagonal
from tests.unit.kernels.cases import small_tiles, unit

__all__ = ["small_tiles"]


def gradients(
    q: Tensor, k: Tensor, scale: float, symmetric: bool = True, **options: object
) -> list[Tensor]:
    """Loss and gradients for q, k and scale of the blocked back end, as float64."""
    q, k = q.clone().requires_grad_(), k.clone().requires_grad_()
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    tau = torch.tensor(scale, dtype=dtype, requires_grad=True)
    loss = info_nce(q, k, tau, symmetric=symmetric, backend="blocked", **options)
    grads = torch.autograd.grad(loss, [q, k, tau])
    assert loss.dtype == dtype
    assert [g.dtype for g in grads] == [q.dtype, k.dtype, dtype]
    return [x.detach().double() for x in (loss, *grads)]


def error(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "rows"])
@pytest.mark.parametrize(("scale", "tolerance"), [(14.0, 2e-6), (100.0, 1e-5), (1e-3, 2e-6)])
def test_float32_unit_norm(
    scale: float, tolerance: float, symmetric: bool, small_tiles: None
) -> None:
    q = unit(90, 32, dtype=torch.float32)
    k = torch.nn.functional.normalize(q + 1.5 * unit(90, 32, seed=1, dtype=torch.float32))
    want = gradients(q.double(), k.double(), scale, symmetric)
    got = gradients(q, k, scale, symmetric)
    assert all(error(*pair) < tolerance for pair in zip(got, want, strict=True))


def test_identical_rows_at_scale_100(small_tiles: None) -> None:
    z = unit(1, 32, dtype=torch.float32).expand(60, -1)
    loss, dq, *_ = gradients(z, z.clone(), 100.0)
    assert abs(loss.item() - torch.tensor(60.0).log().item()) < 1e-4
    assert dq.abs().max() < 1e-4


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "rows"])
@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [1e3, 3.0, 1e-3])
def test_inputs_that_are_not_unit(
    size: float, declared: bool, symmetric: bool, small_tiles: None
) -> None:
    """The online maxima cope with any size; a wrong unit_norm=True is noticed and repaired."""
    q, k = size * unit(60, dtype=torch.float32), unit(60, seed=1, dtype=torch.float32)
    got = gradients(q, k, 30.0, symmetric, unit_norm=declared)
    want = gradients(q.double(), k.double(), 30.0, symmetric, unit_norm=False)
    assert error(got[0], want[0]) < 1e-5
    assert all(error(*pair) < 1e-3 for pair in zip(got[1:], want[1:], strict=True))


def test_opposed_rows_at_scale_100_trip_the_guard(small_tiles: None) -> None:
    """Row 0 is opposed to all keys: with a fixed shift its sum would underflow to 0."""
    k = torch.nn.functional.normalize(torch.ones(40, 8) + 0.01 * unit(40, 8).float())
    q = torch.cat([-torch.ones(1, 8) / 8**0.5, unit(39, 8, seed=2).float()])
    got = pair_stats(q, k, 110.0, Diagonal(), backend="blocked").row_lse
    want = pair_stats(q.double(), k.double(), 110.0, Diagonal(), backend="dense").row_lse
    assert want[0] < -100
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_have_float32_statistics(
    dtype: torch.dtype, backend: str, small_tiles: None
) -> None:
    q, k = unit(60, dtype=dtype), unit(60, seed=1, dtype=dtype)
    got = pair_stats(q, k, 20.0, Diagonal(), backend=backend)
    want = pair_stats(q.double(), k.double(), 20.0, Diagonal(), backend="dense")
    assert got.row_lse.dtype == torch.float32
    assert error(got.row_lse.double(), want.row_lse) < 1e-6
    for left, right in zip(
        gradients(q, k, 20.0), gradients(q.double(), k.double(), 20.0), strict=True
    ):
        assert error(left, right) < (1e-2 if dtype == torch.bfloat16 else 2e-3)


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "rows"])
def test_confident_rows_keep_their_gradient(symmetric: bool, small_tiles: None) -> None:
    """P_ii is near 1: the positive must cancel in float32, not in a rounded tile."""
    q = unit(40, 32, dtype=torch.float32)
    k = torch.nn.functional.normalize(q + 0.7 * unit(40, 32, seed=1, dtype=torch.float32))
    want = gradients(q.double(), k.double(), 30.0, symmetric)
    assert 1e-6 < want[0] < 1e-3  # P_ii is about 0.9995
    assert error(gradients(q, k, 30.0, symmetric)[1], want[1]) < 1e-2


def test_two_runs_are_bit_equal_and_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    from common.kernels.blocked import tiling

    q, k = unit(100, 32, dtype=torch.float32), unit(100, 32, seed=1, dtype=torch.float32)
    monkeypatch.setattr(tiling, "SINGLE", 0)
    results = []
    for rows, cols in ((16, 24), (16, 24), (64, 100)):
        monkeypatch.setattr(tiling, "ROWS", rows)
        monkeypatch.setattr(tiling, "COLS", cols)
        results.append(gradients(q, k, 20.0))
    for first, second, other in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert error(first, other) < 1e-6
