"""Triton kernels on a CUDA device, through the public functions; skipped where there is none.

With TRITON_INTERPRET=1 most of them run on the CPU in Triton's interpreter (slowly).

Reference: the dense back end in float64 on the same (rounded) inputs. Tolerances are relative
(norm of the difference over the norm): the gradients of 16-bit inputs carry the rounding of G to
bf16 (about 1.6e-3) and of the result to the input dtype.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tile_search import candidates, tune
from common.kernels.core.problem import Problem, Upstream
from common.kernels.gpu import backend as triton_backend
from common.kernels.gpu import run_pairs as triton_pair
from common.kernels.gpu.tile_table import override
from common.kernels.pair import info_nce, pair_softplus, pair_stats
from common.kernels.specs.weights import (
    Diagonal,
    Exclude,
    ExcludePositive,
    Index,
    Labels,
    LowRank,
    Spec,
    Threshold,
    Uniform,
    nt_xent_spec,
)
from common.losses.functional.info_nce import info_nce as info_nce_loss
from common.losses.functional.siglip import siglip

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
        reason="no CUDA device",
    ),
]
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

CUDA = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 6e-3, torch.bfloat16: 8e-3}
VALUE = {torch.float32: 1e-5, torch.float16: 1e-4, torch.bfloat16: 1e-4}
ROUNDING = 1e-6  # of a float32 logit, relative to the scale
SIZES = [(256, 256, 128), (1000, 777, 512), (129, 1031, 100), (1, 5, 16), (515, 515, 1024)]
Loss = Callable[[Tensor, Tensor, Tensor, str], Tensor]


def unit(rows: int, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=1).to(CUDA, dtype)


def distance(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm().clamp(min=1e-12))


def close(got: Tensor, want: Tensor, rtol: float, scale: float) -> bool:
    """Relative to the value, or to logits of this scale: a confident row's loss is their
    rounding."""
    error = float((got.double() - want).norm())
    return error <= rtol * float(want.norm()) + ROUNDING * scale


def assert_matches(loss: Loss, q: Tensor, k: Tensor, scale: float = 20.0) -> None:
    mine = [q.clone().requires_grad_(), k.clone().requires_grad_()]
    mine.append(torch.tensor(scale, device=CUDA, requires_grad=True))
    exact = [x.detach().double().requires_grad_() for x in mine]
    got, want = loss(*mine, "triton"), loss(*exact, "dense")
    assert close(got, want, VALUE[q.dtype], scale)
    grads = torch.autograd.grad(got.sum(), mine, allow_unused=True)
    wants = torch.autograd.grad(want.sum(), exact, allow_unused=True)
    for grad, reference in zip(grads, wants, strict=True):
        assert (grad is None) == (reference is None)
        if grad is not None and reference is not None:
            assert close(grad, reference, TOLERANCE[q.dtype], scale)


def one_sided(spec: Spec) -> Loss:
    def loss(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
        return info_nce(q, k, scale, spec, symmetric=False, backend=backend)

    return loss


def clip(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
    return info_nce(q, k, scale, backend=backend)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_odd_sizes_in_all_dtypes(n: int, m: int, d: int, dtype: torch.dtype) -> None:
    q, k = unit(n, d, 0, dtype), unit(m, d, 1, dtype)
    assert_matches(one_sided(Index(torch.arange(n, device=CUDA) % m)), q, k)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("n", [256, 1023])
def test_both_directions(n: int, dtype: torch.dtype) -> None:
    assert_matches(clip, unit(n, 256, 0, dtype), unit(n, 256, 1, dtype))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_symmetric_problems_use_half_of_the_tiles(dtype: torch.dtype) -> None:
    def loss(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
        z = torch.cat([q, k])
        return info_nce(z, z, scale, nt_xent_spec(len(q)), symmetric=False, backend=backend)

    assert_matches(loss, unit(333, 128, 0, dtype), unit(333, 128, 1, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["labels", "exclude", "dcl", "lowrank", "threshold"])
def test_masks_and_weights(name: str, dtype: torch.dtype) -> None:
    n = 300
    ids = torch.randint(40, (n,), generator=torch.Generator().manual_seed(0)).to(CUDA)
    u, v = unit(n, 48, 2), unit(n, 48, 3)
    specs: dict[str, Spec] = {
        "labels": Labels(ids, ids.flip(0)),
        "exclude": Diagonal() & Exclude(ids, ids),
        "dcl": Diagonal() & ExcludePositive(),
        "lowrank": LowRank(u, v, factor=0.5, shift=0.5),
        "threshold": Diagonal() & Threshold(u, v, torch.full((n,), 0.1, device=CUDA)),
    }

    def loss(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
        stats = pair_stats(q, k, scale, specs[name], columns=True, moment=True, backend=backend)
        assert stats.col_lse is not None
        assert stats.row_mom is not None
        return stats.row_lse + 0.5 * stats.col_lse - stats.row_lin + 0.1 * stats.row_mom

    assert_matches(loss, unit(n, 192, 0, dtype), unit(n, 192, 1, dtype))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("spec", [Diagonal(), Diagonal(0.9) & ExcludePositive(), Uniform(0.01)])
def test_one_sided_with_gradients_in_the_forward(spec: Spec, dtype: torch.dtype) -> None:
    q, k = unit(530, 96, 0, dtype), unit(641, 96, 1, dtype)
    problem = Problem(q, k, torch.tensor(20.0, device=CUDA), spec)
    assert triton_backend.fuses_rows(problem)  # 512 rows or more: a fixed shift
    assert_matches(one_sided(spec), q, k)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_kept_exponentials(share: float, dtype: torch.dtype) -> None:
    n = 640

    def loss(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
        budget = int(share * n * n * (4 if dtype == torch.float32 else 2))
        return info_nce(q, k, scale, backend=backend, memory_budget=budget)

    assert_matches(loss, unit(n, 96, 0, dtype), unit(n, 96, 1, dtype))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("loss", [info_nce_loss, siglip])
def test_losses_and_their_samples(loss: Callable[..., Any], dtype: torch.dtype) -> None:
    """Loss modules compare at least in float32, so the dtype is that of the encoder only."""

    def total(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
        out = loss(q, k, scale, backend=backend)
        return out.loss + 0.1 * out.per_sample[3]

    assert_matches(total, unit(520, 96, 0, dtype), unit(520, 96, 1, dtype), scale=10.0)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_softplus(dtype: torch.dtype) -> None:
    def loss(q: Tensor, k: Tensor, scale: Tensor, backend: str) -> Tensor:
        return pair_softplus(q, k, scale, Diagonal(), bias=-5.0, backend=backend)

    assert_matches(loss, unit(401, 256, 0, dtype), unit(401, 256, 1, dtype), scale=10.0)


def test_non_contiguous_inputs() -> None:
    wide = unit(300, 512, 0, torch.bfloat16)
    q, k = wide[:, 64:320], wide.T.contiguous().T[:, :256]
    assert not q.is_contiguous()
    want = clip(q.contiguous(), k.contiguous(), torch.tensor(20.0, device=CUDA), "triton")
    assert torch.equal(clip(q, k, torch.tensor(20.0, device=CUDA), "triton"), want)


@needs_card
def test_row_offsets_beyond_two_to_the_31() -> None:
    rows, stride, dim = 70_000, 32_768, 64
    if torch.cuda.mem_get_info()[0] < 2 * rows * stride + 2**30:
        pytest.skip("less than 6 GB of free device memory")
    q = torch.zeros(rows, stride, dtype=torch.bfloat16, device=CUDA)[:, :dim]
    q.copy_(unit(rows, dim, 0))
    k = unit(128, dim, 1, torch.bfloat16)
    spec = Index(torch.zeros(rows, dtype=torch.long, device=CUDA))
    scale = torch.tensor(20.0, device=CUDA)
    got = pair_stats(q, k, scale, spec, backend="triton").row_lse[-100:]
    want = (20.0 * q[-100:].double() @ k.double().T).logsumexp(1)
    assert distance(got, want) <= VALUE[torch.bfloat16]


@needs_card
def test_gradient_workspace_beyond_two_to_the_31_elements() -> None:
    n, dim = 47_000, 64
    if torch.cuda.mem_get_info()[0] < 2 * n * n + 2**30:
        pytest.skip("less than 6 GB of free device memory")
    q, k = unit(n, dim, 0, torch.bfloat16), unit(n, dim, 1, torch.bfloat16)
    problem = Problem(q, k, torch.tensor(20.0, device=CUDA), Diagonal())
    stats = triton_pair.forward(problem)
    up = Upstream(a=torch.full((n,), 1 / n, device=CUDA))
    whole = triton_pair.backward(problem, stats, up, True, False, workspace=2 * n * n)
    chunks = triton_pair.backward(problem, stats, up, True, False)
    assert distance(whole.dq, chunks.dq.double()) <= 1e-5


@needs_card
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_at_a_size_that_no_dense_matrix_has(dtype: torch.dtype) -> None:
    """65,536 pairs against torch in blocks in float32: many splits, many blocks of the gradient."""
    assert_matches_blocks(65_536, dtype)


def test_values_and_gradients_in_blocks() -> None:
    """The same comparison where it is cheap, in the interpreter too."""
    assert_matches_blocks(70, torch.float32)


def assert_matches_blocks(n: int, dtype: torch.dtype) -> None:
    q = unit(n, 64, 0, dtype)
    k = F.normalize(q.float() + 2.5 * unit(n, 64, 1), dim=1).to(dtype)  # no confident rows
    mine = [q.clone().requires_grad_(), k.clone().requires_grad_()]
    mine.append(torch.tensor(20.0, device=CUDA, requires_grad=True))
    other = [x.detach().float().requires_grad_() for x in mine]
    got, want = (clip(*x, backend) for x, backend in ((mine, "triton"), (other, "blocked")))
    assert close(got, want.double(), VALUE[dtype], 20.0)
    tolerance = max(TOLERANCE[dtype], 1e-4)  # the other one is float32 as well
    grads, wants = torch.autograd.grad(got, mine), torch.autograd.grad(want, other)
    for grad, reference in zip(grads, wants, strict=True):
        assert distance(grad, reference.double()) <= tolerance
        assert distance(1.05 * grad, reference.double()) > tolerance  # it would be noticed


@needs_card
@pytest.mark.parametrize("dim", [512, 1024])
def test_memory_stays_within_workspace_and_gradients(dim: int) -> None:
    n = 16_384  # the dense logits alone would take 1 GiB
    q, k = (unit(n, dim, s, torch.bfloat16).requires_grad_() for s in (0, 1))
    scale = torch.tensor(50.0, device=CUDA, requires_grad=True)
    clip(q[:256], k[:256], scale, "triton").backward()
    q.grad = k.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    clip(q, k, scale, "triton").backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra <= 256 * 2**20 + 3 * 2 * n * dim * 4 + 32 * 2**20


def test_two_runs_are_bit_equal() -> None:
    q, k = unit(1500, 384, 0, torch.bfloat16), unit(1500, 384, 1, torch.bfloat16)
    runs = []
    for _ in range(2):
        leaves = [x.clone().requires_grad_() for x in (q, k)]
        loss = clip(*leaves, torch.tensor(30.0, device=CUDA), "triton")
        runs.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@needs_card
@pytest.mark.parametrize("dim", [384, 100])  # rows of 200 bytes are read by addresses either way
def test_operands_copied_by_blocks_change_no_result(
    dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k = unit(1500, dim, 0, torch.bfloat16), unit(1111, dim, 1, torch.bfloat16)
    runs = []
    for setting in ("1", "0"):
        monkeypatch.setenv("CONTRASTIVE_TMA", setting)
        stats = pair_stats(
            q,
            k,
            torch.tensor(30.0, device=CUDA),
            Diagonal(),
            columns=True,
            top1=True,
            backend="triton",
        )
        runs.append([stats.row_lse, stats.col_lse, stats.row_lin])
    for by_blocks, by_addresses in zip(*runs, strict=True):
        torch.testing.assert_close(by_blocks, by_addresses, rtol=1e-6, atol=1e-6)


@needs_card
@pytest.mark.parametrize("symmetric", [True, False])
def test_losses_do_not_synchronise_with_the_host(symmetric: bool) -> None:
    q, k = (unit(640, 256, s, torch.bfloat16).requires_grad_() for s in (0, 1))
    scale = torch.tensor(30.0, device=CUDA, requires_grad=True)

    def step() -> None:
        loss = info_nce(q, k, scale, symmetric=symmetric, backend="triton", memory_budget=2**20)
        loss = loss + pair_softplus(q, k, scale, Diagonal(), reduction="mean", backend="triton")
        loss.backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_card
def test_no_host_synchronisation() -> None:
    q, k = (unit(512, 256, s, torch.bfloat16).requires_grad_() for s in (0, 1))
    scale = torch.tensor(30.0, device=CUDA, requires_grad=True)
    pair_stats(q, k, scale, Diagonal(), columns=True, backend="triton").row_lse.sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        stats = pair_stats(q, k, scale, Diagonal(), columns=True, top1=True, backend="triton")
        (stats.row_lse - stats.row_lin).mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_card
@pytest.mark.parametrize("symmetric", [True, False])
def test_losses_compile_without_graph_break(symmetric: bool) -> None:
    q, k = unit(640, 256, 0, torch.bfloat16), unit(640, 256, 1, torch.bfloat16)
    scale = torch.tensor(30.0, device=CUDA)

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return info_nce(q, k, scale, symmetric=symmetric, backend="triton", memory_budget=2**20)

    torch.testing.assert_close(torch.compile(loss, fullgraph=True)(q, k), loss(q, k))


@needs_card
def test_the_tuner_finds_tiles_that_change_no_result() -> None:
    q, k = unit(1024, 128, 0, torch.bfloat16), unit(1024, 128, 1, torch.bfloat16)
    want = clip(q, k, torch.tensor(20.0, device=CUDA), "triton")
    few = lambda family, operand: candidates(family, operand)[:6]  # noqa: E731  # each is compiled
    actual = tune(1024, 128, torch.bfloat16, families=("lse",), variants=("plain",), tiles=few)
    assert actual
    for key, (tile, ms, _) in actual.items():
        assert ms > 0
        override(key, tile)
        try:
            got = clip(q, k, torch.tensor(20.0, device=CUDA), "triton")
        finally:
            override(key, None)
        assert distance(got, want.double()) <= VALUE[torch.bfloat16]


@needs_card
def test_compiles_without_graph_break() -> None:
    q, k = unit(512, 256, 0, torch.bfloat16), unit(512, 256, 1, torch.bfloat16)
    scale = torch.tensor(30.0, device=CUDA)

    def loss(q: Tensor, k: Tensor) -> Tensor:
        stats = pair_stats(q, k, scale, Diagonal(), columns=True, backend="triton")
        assert stats.col_lse is not None
        return (0.5 * (stats.row_lse + stats.col_lse) - stats.row_lin).mean()

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(q, k), loss(q, k))


def test_confident_rows_keep_their_gradient() -> None:
    q = unit(512, 256, 0, torch.bfloat16)
    noise = unit(512, 256, 9)
    k = F.normalize(0.9 * q.float() + 0.25 * noise, dim=1).to(torch.bfloat16)
    assert_matches(clip, q, k, scale=14.5)  # P of the positive about 0.999


@pytest.mark.parametrize(("n", "m"), [(256, 1024), (640, 640)])
def test_a_diverged_row_makes_the_loss_nan(n: int, m: int) -> None:
    q, k = unit(n, 64, 0), unit(m, 64, 1)
    q[3] = torch.nan
    loss = info_nce(q, k, torch.tensor(20.0, device=CUDA), symmetric=False, backend="triton")
    assert loss.isnan().item()


@pytest.mark.parametrize("precision", ["exact", "tf32"])
def test_products_of_float32_rows_in_either_precision(precision: Any) -> None:
    q, k = unit(640, 256, 0), unit(640, 256, 1)
    scale = torch.tensor(20.0, device=CUDA)
    got = info_nce(q, k, scale, backend="triton", precision=precision)
    want = clip(q.double(), k.double(), scale.double(), "dense")
    assert distance(got, want) <= (1e-5 if precision == "exact" else 1e-3)
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"


def test_blocked_torch_on_the_gpu_agrees() -> None:
    q, k = unit(700, 256, 0), unit(700, 256, 1)
    scale = torch.tensor(20.0, device=CUDA)
    mine, other = (clip(q, k, scale, backend) for backend in ("triton", "blocked"))
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_another_scale_is_noticed() -> None:
    q, k = unit(256, 128, 0), unit(256, 128, 1)
    losses = [clip(q, k, torch.tensor(s, device=CUDA), "triton") for s in (20.0, 20.5)]
    assert distance(losses[0], losses[1].double()) > 10 * VALUE[torch.float32]
