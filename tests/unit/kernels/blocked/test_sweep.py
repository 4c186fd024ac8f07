"""Blocked and dense back ends compute the same statistics and gradients in float64."""

import pytest
import torch
from torch import Tensor

from common.kernels.pair import PairStats, info_nce, pair_stats
from common.kernels.specs.weights import Diagonal, ExcludeSelf, Spec
from tests.unit.kernels.cases import SELF_CASES, small_tiles, spec_cases, unit

__all__ = ["small_tiles"]

SHAPES = [(37, 53), (50, 50), (1, 7), (9, 1)]
TOLERANCE = 1e-11


def combine(stats: PairStats) -> Tensor:
    """A loss that is non-linear in every statistic and ignores empty rows and columns."""
    total = stats.row_lin.tanh().sum()
    for lse in (stats.row_lse, stats.col_lse):
        if lse is not None:
            total = total + (lse[~lse.isneginf()] * 0.3).sin().sum()
    return total if stats.row_mom is None else total + (stats.row_mom * 0.2).cos().sum()


def run(
    backend: str, spec: Spec, q: Tensor, k: Tensor | None, scale: float = 9.0, **options: object
) -> dict[str, Tensor]:
    """Statistics and gradients for q, k, scale, row_scale; k = None compares q with itself."""
    q = q.detach().clone().requires_grad_()
    keys = q if k is None else k.detach().clone().requires_grad_()
    tau = torch.tensor(scale, dtype=q.dtype, requires_grad=True)
    inputs = {"dq": q, "dscale": tau}
    if k is not None:
        inputs["dk"] = keys
    if options.pop("row_scaled", False):
        rho = torch.linspace(0.5, 1.5, len(q), dtype=q.dtype).requires_grad_()
        inputs["drho"], options["row_scale"] = rho, rho
    stats = pair_stats(q, keys, tau, spec, backend=backend, **options)  # type: ignore[arg-type]
    grads = torch.autograd.grad(combine(stats), list(inputs.values()), allow_unused=True)
    named = dict(zip(inputs, grads, strict=True))
    out = {n: v for n, v in (*stats._asdict().items(), *named.items()) if v is not None}
    return {name: value.detach() for name, value in out.items()}


def check_equal(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            right[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", spec_cases(4, 4))
@pytest.mark.parametrize("unit_norm", [True, False], ids=["fixed", "online"])
def test_blocked_equals_dense(
    name: str, shape: tuple[int, int], unit_norm: bool, small_tiles: None
) -> None:
    spec = spec_cases(*shape)[name]
    q, k = unit(shape[0]), unit(shape[1], seed=1)
    options = {"columns": True, "top1": True, "unit_norm": unit_norm}
    check_equal(
        run("dense", spec, q, k, **options), run("blocked", spec, q, k, **options), TOLERANCE
    )


@pytest.mark.parametrize("name", ["diagonal", "exclude", "guided", "bias", "relu", "dead_rows"])
@pytest.mark.parametrize("unit_norm", [True, False], ids=["fixed", "online"])
def test_moment_and_row_scale(name: str, unit_norm: bool, small_tiles: None) -> None:
    spec, q, k = spec_cases(37, 53)[name], unit(37), unit(53, seed=1)
    options = {"columns": True, "moment": True, "row_scaled": True, "unit_norm": unit_norm}
    check_equal(
        run("dense", spec, q, k, **options), run("blocked", spec, q, k, **options), TOLERANCE
    )


@pytest.mark.parametrize("name", SELF_CASES)
@pytest.mark.parametrize("unit_norm", [True, False], ids=["fixed", "online"])
@pytest.mark.parametrize("columns", [True, False], ids=["columns", "rows"])
def test_symmetric_problem_uses_half_of_the_tiles(
    name: str, unit_norm: bool, columns: bool, small_tiles: None
) -> None:
    spec, q = SELF_CASES[name](46), unit(46)
    options = {"columns": columns, "unit_norm": unit_norm, "top1": True}
    check_equal(
        run("dense", spec, q, None, **options), run("blocked", spec, q, None, **options), TOLERANCE
    )


@pytest.mark.parametrize("budget", [0, 5000, 10**9])
@pytest.mark.parametrize("name", ["diagonal", "exclude"])
def test_kept_tiles_do_not_change_results(name: str, budget: int, small_tiles: None) -> None:
    spec, q, k = spec_cases(50, 41)[name], unit(50), unit(41, seed=1)
    want = run("dense", spec, q, k, columns=True)
    check_equal(want, run("blocked", spec, q, k, columns=True, memory_budget=budget), TOLERANCE)


def test_kept_tiles_of_a_symmetric_problem(small_tiles: None) -> None:
    spec, q = SELF_CASES["nt_xent"](46), unit(46)
    want = run("dense", spec, q, None)
    check_equal(want, run("blocked", spec, q, None, memory_budget=5000), TOLERANCE)


def test_backward_twice_with_kept_tiles_gives_the_same_gradient() -> None:
    q = unit(20).requires_grad_()
    loss = combine(
        pair_stats(q, unit(20, seed=1), 5.0, Diagonal(), columns=True, backend="blocked")
    )
    first = torch.autograd.grad(loss, q, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, q)[0])


@pytest.mark.parametrize("name", spec_cases(4, 4))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("unit_norm", [True, False], ids=["fixed", "online"])
def test_fused_one_sided_info_nce(
    name: str, shape: tuple[int, int], unit_norm: bool, small_tiles: None
) -> None:
    spec = spec_cases(*shape)[name]
    results = []
    for backend in ("dense", "blocked"):
        q, k = unit(shape[0]).requires_grad_(), unit(shape[1], seed=1).requires_grad_()
        rho = torch.linspace(0.5, 1.5, len(q), dtype=q.dtype).requires_grad_()
        tau = torch.tensor(9.0, dtype=q.dtype, requires_grad=True)
        loss = info_nce(
            q, k, tau, spec, symmetric=False, row_scale=rho, backend=backend, unit_norm=unit_norm
        )
        grads = torch.autograd.grad(3 * loss, [q, k, tau, rho])
        results.append(dict(zip("lqktr", (loss.detach(), *grads), strict=True)))
    check_equal(*results, TOLERANCE)


def test_detached_keys_get_no_gradient_and_the_query_gradient_is_unchanged(
    small_tiles: None,
) -> None:
    q, k = unit(37).requires_grad_(), unit(53, seed=1)
    for symmetric in (True, False):
        keys = k[:37] if symmetric else k
        with_grad = keys.clone().requires_grad_()
        loss = info_nce(q, keys, 9.0, symmetric=symmetric, backend="blocked")
        want = info_nce(q, with_grad, 9.0, symmetric=symmetric, backend="blocked")
        torch.testing.assert_close(
            torch.autograd.grad(loss, q)[0], torch.autograd.grad(want, q)[0], rtol=0, atol=1e-15
        )


def test_duplicate_rows_share_the_probability() -> None:
    z = unit(1).expand(6, -1)
    stats = pair_stats(z, z.clone(), 4.0, Diagonal(), backend="blocked")
    torch.testing.assert_close(stats.row_lse - stats.row_lin, torch.full((6,), 6.0).double().log())


def test_comparison_can_fail(small_tiles: None) -> None:
    q, k = unit(37), unit(37, seed=1)
    with pytest.raises(AssertionError):
        check_equal(run("dense", Diagonal(), q, k), run("blocked", ExcludeSelf(), q, k), TOLERANCE)


def test_tile_offsets_select_the_shard(small_tiles: None) -> None:
    q, k = unit(40), unit(40, seed=1)
    spec = Diagonal() & ExcludeSelf()
    whole = pair_stats(q, k, 9.0, spec, backend="blocked")
    part = pair_stats(q[11:29], k, 9.0, spec, backend="blocked", row_start=11)
    torch.testing.assert_close(part.row_lse, whole.row_lse[11:29])
    torch.testing.assert_close(part.row_lin, whole.row_lin[11:29])
