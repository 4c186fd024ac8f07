"""Registration: opcheck, torch.compile without graph breaks, autocast."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from common.kernels import ops, softplus_ops
from common.kernels.arguments import flatten, make_problem, prepare
from common.kernels.pair import info_nce, pair_softplus
from common.kernels.specs.weights import Diagonal, nt_xent_spec
from common.losses.image_text import ClipLoss
from tests.unit.kernels.cases import spec_cases, unit


def operator_inputs(name: str, **options: bool) -> tuple[Tensor, Tensor, Tensor, list[object]]:
    q, k = unit(6).float().requires_grad_(), unit(6, seed=1).float().requires_grad_()
    scale = torch.tensor(5.0, requires_grad=True)
    problem = prepare(make_problem(q, k, scale, spec_cases(6, 6)[name], **options))
    return q, k, scale, list(flatten(problem))


@pytest.mark.parametrize("name", ["diagonal", "guided"])
def test_opcheck_statistics(name: str) -> None:
    q, k, scale, flat = operator_inputs(name, columns=True, moment=name == "guided", top1=True)
    torch.library.opcheck(ops.pair_stats_op, (q, k, scale, None, *flat, "blocked"))


def test_opcheck_row_scale_and_self_comparison() -> None:
    q, k, scale, flat = operator_inputs("labels")
    rho = torch.ones(6, requires_grad=True)
    torch.library.opcheck(ops.pair_stats_op, (q, k, scale, rho, *flat, "blocked"))
    torch.library.opcheck(ops.pair_stats_op, (q, None, scale, None, *flat, "blocked"))


@pytest.mark.parametrize("join", [False, True])
def test_opcheck_fused_rows(join: bool) -> None:
    q, k, scale, flat = operator_inputs("diagonal")
    torch.library.opcheck(
        ops.info_nce_rows_op, (q, k, scale, None, *flat, "blocked", join, True, True)
    )


@pytest.mark.parametrize("top1", [False, True])
def test_opcheck_softplus(top1: bool) -> None:
    q, k, scale, flat = operator_inputs("diagonal", top1=top1)
    bias, offset = torch.tensor(-1.0, requires_grad=True), torch.zeros(6, requires_grad=True)
    inputs = (q, k, scale, None, bias, offset, *flat)
    torch.library.opcheck(softplus_ops.pair_softplus_op, (*inputs, "blocked"))
    torch.library.opcheck(softplus_ops.pair_softplus_sum_op, (*inputs, "blocked", True, True))


LOSSES = {
    "symmetric": lambda q, k, t: info_nce(q, k, t, backend="blocked"),
    "rows": lambda q, k, t: info_nce(q, k, t, symmetric=False, backend="blocked"),
    "nt_xent": lambda q, k, t: info_nce(
        *(2 * (torch.cat([q, k]),)), t, nt_xent_spec(len(q)), symmetric=False, backend="blocked"
    ),
    "siglip": lambda q, k, t: pair_softplus(
        q, k, t, Diagonal(), bias=-3.0, reduction="mean", backend="blocked"
    ),
}


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="torch.compile of 2.6 breaks the graph at frozen dataclasses, with the same result",
)
@pytest.mark.parametrize("name", LOSSES)
def test_compile_without_graph_breaks(name: str) -> None:
    results = []
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend="aot_eager")
    for function in (LOSSES[name], compiled):
        q, k = unit(12).float().requires_grad_(), unit(12, seed=1).float().requires_grad_()
        scale = torch.tensor(5.0, requires_grad=True)
        loss = function(q, k, scale)
        results.append([loss.detach(), *torch.autograd.grad(loss, [q, k, scale])])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("backend", ["auto", "blocked"])
@pytest.mark.parametrize(
    ("scales", "most"), [(list(torch.arange(5.0, 9.0)), 1), ([5.0, 6.0, 7.0, 8.0], 2)]
)
def test_another_scale_compiles_nothing(
    backend: str, scales: list[Tensor | float], most: int
) -> None:
    """A learnt scale is a tensor; of a float the second value compiles for all others."""
    torch._dynamo.reset()
    compilations = CompileCounter()
    loss = ClipLoss(backend=backend)
    compiled = torch.compile(lambda q, k, s: loss(q, k, s).loss, backend=compilations)
    q, k = unit(12).float(), unit(12, seed=1).float()
    for scale in scales:
        torch.testing.assert_close(compiled(q, k, scale), loss(q, k, scale).loss)
    assert 1 <= compilations.frame_count <= most


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_autocast_does_not_lower_the_precision(symmetric: bool, backend: str) -> None:
    q, k = unit(30).float().requires_grad_(), unit(30, seed=1).float()
    want = info_nce(q, k, 50.0, symmetric=symmetric, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = info_nce(q, k, 50.0, symmetric=symmetric, backend=backend)
        assert (q @ k.T).dtype == torch.bfloat16  # autocast is really on
    assert got.dtype == torch.float32
    assert torch.equal(got, want)
    assert torch.equal(*(torch.autograd.grad(x, q)[0] for x in (got, want)))
