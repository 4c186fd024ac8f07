"""The driver up to the launch, without a GPU: real arguments, real specialisation, real
compilation.

Triton is given a stand-in for the CUDA driver and only warms its kernels up: every kernel that a
problem needs is compiled for sm_90 exactly as it would be on the card, but not run. Daily as far as
Triton's own passes for the card go (`test_triton_aot` has the machine code); `make faults` to the
end.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from common.kernels.core.problem import Problem, Upstream  # noqa: E402
from common.kernels.gpu import backend as triton_backend  # noqa: E402
from common.kernels.gpu import launch as triton_launch  # noqa: E402
from common.kernels.gpu import run_pairs as triton_pair  # noqa: E402
from common.kernels.gpu import tile_table  # noqa: E402
from common.kernels.specs.weights import (  # noqa: E402
    Bias,
    Diagonal,
    ExcludeSelf,
    Labels,
    LowRank,
    Partner,
    Spec,
    Threshold,
)
from tests.unit.kernels.triton_aot import find_tool  # noqa: E402

pytestmark = [
    pytest.mark.skipif(find_tool("ptxas") is None, reason="Triton has no ptxas here"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu runs the kernels for real"),
]

Launches = list[tuple[str, str]]  # kernel name, hash of the compiled code


class _NoDevice:
    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def launches(compiled: Launches) -> Iterator[Launches]:
    """As `compiled`, without machine code, which takes five sixths of the time."""

    def no_machine_code(*args: Any) -> tuple[str, str] | None:
        if not args:  # Triton 3.9 asks for a key of its cache first
            return "no machine code", "0"

        def nothing(module: Any, metadata: dict[str, Any]) -> bytes:
            metadata.update(name="kernel", shared=0)
            return b""

        args[1].update(dict.fromkeys(("llir", "ptx", "cubin"), nothing))
        return None

    with triton.knobs.runtime.scope():
        triton.knobs.runtime.add_stages_inspection_hook = no_machine_code
        yield compiled


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Launches]:
    """Kernels in the order of their launches."""
    seen: Launches = []
    original: Callable[..., Any] = JITFunction.run

    def warm_up(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = original(self, *args, grid=grid, warmup=True, **options)
        seen.append((self.__name__, kernel.hash))
        return kernel

    monkeypatch.setattr(JITFunction, "run", warm_up)
    monkeypatch.setattr(triton_launch, "unsupported", lambda problem: None)
    monkeypatch.setattr(triton_launch, "_multiprocessors", lambda device: 132)
    monkeypatch.setattr(triton_launch.Plan, "capability", (9, 0))
    monkeypatch.setattr(driver, "_active", _NoDevice())
    with triton.knobs.cache.scope():
        triton.knobs.cache.dir = str(tmp_path)
        yield seen


def sweep(spec: Spec, n: int, m: int, d: int, dtype: torch.dtype, **options: Any) -> None:
    q = torch.zeros(n, d, dtype=dtype)
    k = q if options.get("half") else torch.zeros(m, d, dtype=dtype)
    problem = Problem(q, k, torch.tensor(20.0), spec.prepare(), **options)
    rows, cols = torch.zeros(n), torch.zeros(m)
    stats = triton_pair.forward(problem)._replace(row_lse=rows, col_lse=cols, row_mom=rows)
    b = cols if options.get("columns") else None
    up = Upstream(rows, b, rows, rows if options.get("moment") else None)
    triton_pair.backward(problem, stats, up, True, True)


def ids(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64)


U = torch.zeros(640, 48)
PROBLEMS: dict[str, Callable[[], None]] = {
    "clip": lambda: sweep(Diagonal(), 640, 640, 512, torch.bfloat16, columns=True),
    "uneven": lambda: sweep(Diagonal(), 700, 577, 100, torch.float32, columns=True),
    "one": lambda: sweep(Diagonal(), 1, 1, 16, torch.float16, columns=True, top1=True),
    "nt_xent": lambda: sweep(
        Partner(320) & ExcludeSelf(), 640, 640, 512, torch.bfloat16, half=True, top1=True
    ),
    "labels": lambda: sweep(
        Labels(ids(640), ids(640), exclude_self=True),
        640,
        640,
        512,
        torch.bfloat16,
        columns=True,
        top1=True,
        moment=True,
        row_scale=torch.ones(640),
    ),
    "features": lambda: sweep(
        Diagonal() & Threshold(U, U, U[:, 0]) & Bias(U[:, 0], u=U, v=U),
        640,
        640,
        512,
        torch.bfloat16,
        columns=True,
    ),
}


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_a_problem_compiles_two_kernels(name: str, launches: Launches) -> None:
    PROBLEMS[name]()
    assert [kernel for kernel, _ in launches] == ["lse_kernel", "grad_kernel"]


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(PROBLEMS))
def test_a_problem_compiles_to_machine_code(name: str, compiled: Launches) -> None:
    PROBLEMS[name]()
    assert len(compiled) == 2


def test_softplus_compiles(launches: Launches) -> None:
    q = torch.zeros(640, 256, dtype=torch.bfloat16)
    problem = Problem(q, q.clone(), torch.tensor(10.0), Diagonal())
    bias = torch.tensor(-10.0)
    triton_backend.softplus_forward(problem, bias, None)
    triton_backend.softplus_backward(problem, bias, torch.zeros(640), torch.ones(640), True, True)
    triton_backend.softplus_fused(problem, bias, None, True, True)
    assert [name for name, _ in launches] == ["softplus_kernel"] + 2 * ["softplus_grad_kernel"]


def test_kept_exponentials_replace_the_second_product(launches: Launches) -> None:
    q = torch.zeros(640, 256, dtype=torch.bfloat16)
    problem = Problem(q, q.clone(), torch.tensor(10.0), Diagonal(), columns=True)
    rows = torch.zeros(640)
    up = Upstream(rows, rows, rows, None)
    for keep, kernels in (
        (0, ["lse", "grad"]),
        (2 * 640 * 640, ["lse", "kept_grad"]),
        (640 * 640, ["lse", "lse", "kept_grad", "grad"]),
    ):
        launches.clear()
        kept = replace(problem, keep=keep)
        stats = triton_pair.forward(kept)._replace(row_lse=rows, col_lse=rows)
        triton_pair.backward(kept, stats, up, True, True)
        assert [name for name, _ in launches] == [f"{kernel}_kernel" for kernel in kernels]
    assert stats.kept.numel() == 256 * 640  # a multiple of 128 rows
    assert stats.kept.dtype == torch.bfloat16


def test_one_sided_info_nce_launches_one_kernel(launches: Launches) -> None:
    q = torch.zeros(640, 256, dtype=torch.bfloat16)
    problem = Problem(q, q.clone(), torch.tensor(10.0), Diagonal(), top1=True)
    triton_backend.info_nce_rows(problem, True, True)
    assert [name for name, _ in launches] == ["lse_kernel"]


def test_one_compilation_serves_all_sizes_and_dimensions(launches: Launches) -> None:
    for n, dim in ((1024, 256), (1024, 512), (2048, 768), (4096, 1024)):
        sweep(Diagonal(), n, n, dim, torch.bfloat16, columns=True)
    assert len({code for name, code in launches if name == "lse_kernel"}) == 1
    assert len({code for name, code in launches if name == "grad_kernel"}) == 1


NUMBERS: dict[str, Callable[[float], Spec]] = {
    "weight": lambda x: Diagonal(weight=x),
    "bias": lambda x: Diagonal() & Bias(u=U, v=U, factor=x, positive_value=-x),
    "curve": lambda x: LowRank(U, U, mode="relu", factor=x, shift=1 / x),
    "batch": lambda x: Partner(int(64 * x)) & ExcludeSelf(),
}


@pytest.mark.parametrize("name", list(NUMBERS))
def test_another_number_compiles_nothing(name: str, launches: Launches) -> None:
    """The scale, weights, factors and the size of the batch may change from step to step."""
    for number in (5.0, 7.0, 9.0):
        spec = NUMBERS[name](number).prepare()
        n = int(128 * number) if name == "batch" else len(U)
        q = torch.zeros(n, 64, dtype=torch.bfloat16)
        problem = Problem(q, q.clone(), torch.tensor(number), spec)
        rows = torch.zeros(n)
        stats = triton_pair.forward(problem)._replace(row_lse=rows)
        triton_pair.backward(problem, stats, Upstream(rows, None, rows, None), True, True)
    assert len(launches) == 6
    assert len(set(launches)) == 2


def test_another_mask_is_another_kernel(launches: Launches) -> None:
    sweep(Diagonal(), 640, 640, 64, torch.bfloat16)
    sweep(Diagonal() & ExcludeSelf(), 640, 640, 64, torch.bfloat16)
    assert len({code for name, code in launches if name == "lse_kernel"}) == 2


def test_only_aligned_operands_of_tensor_cores_are_copied_by_blocks(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 16 bytes; float32 without TF32, other cards and CONTRASTIVE_TMA=0 read by
    addresses."""

    def copied(dim: int, dtype: torch.dtype = torch.bfloat16, rows: int = 128) -> bool:
        q = torch.zeros(640, dim, dtype=dtype)
        plan = triton_launch.Plan.make(Problem(q, q.clone(), torch.tensor(20.0), Diagonal()))
        return plan.copied(plan.q, rows, 64) is not None

    assert copied(64)
    assert not copied(100)  # rows of 200 bytes
    assert not copied(64, torch.float32)
    assert not copied(64, rows=512)
    one_row = torch.zeros(64, dtype=torch.bfloat16)
    for q in (one_row.expand(640, 64), torch.zeros(656, dtype=torch.bfloat16).unfold(0, 64, 8)):
        plan = triton_launch.Plan.make(Problem(q, q.clone(), torch.tensor(20.0), Diagonal()))
        assert plan.copied(plan.q, 128, 64) is None  # a row begins within another
    monkeypatch.setenv("CONTRASTIVE_TMA", "0")
    assert not copied(64)
    monkeypatch.delenv("CONTRASTIVE_TMA")
    for other in ((8, 0), (10, 0), (12, 0)):
        monkeypatch.setattr(triton_launch.Plan, "capability", other)
        assert not copied(64)


def test_tf32_products_are_permitted_until_their_last_user_is_done() -> None:
    """Backward threads of two GPUs may overlap, and the setting is one of the process."""
    setting = torch.backends.cuda.matmul
    problem: Any = SimpleNamespace(precision="tf32", q=SimpleNamespace(is_cuda=True))
    exact: Any = SimpleNamespace(precision="exact", q=problem.q)
    before = setting.fp32_precision
    with triton_launch.dense_products(exact):
        assert setting.fp32_precision == before != "tf32"
    first, second = (triton_launch.dense_products(problem) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert setting.fp32_precision == "tf32"
    second.__exit__(None, None, None)
    assert setting.fp32_precision == before


def test_a_row_of_nan_is_not_an_empty_one() -> None:
    """A card's maximum drops NaN, so such a row comes as (-inf, NaN); the interpreter's keeps
    it."""
    top = torch.tensor([-torch.inf, -torch.inf, 2.0, torch.nan])
    total = torch.tensor([0.0, torch.nan, 4.0, torch.nan])
    lse = triton_pair.finish_lse(top, total, None, 4, may_be_empty=True)
    expected = [-torch.inf, torch.nan, 4 * math.log(2), torch.nan]
    torch.testing.assert_close(lse, torch.tensor(expected), equal_nan=True)


def test_operands_read_by_blocks_and_by_addresses_are_two_kernels(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(Diagonal(), 640, 640, 64, torch.bfloat16)
    monkeypatch.setenv("CONTRASTIVE_TMA", "0")
    sweep(Diagonal(), 640, 640, 64, torch.bfloat16)
    assert len({code for name, code in launches if name == "lse_kernel"}) == 2
    assert len({code for name, code in launches if name == "grad_kernel"}) == 1


def test_the_workspace_bounds_the_row_chunks(launches: Launches) -> None:
    q = torch.zeros(640, 64, dtype=torch.bfloat16)
    problem = Problem(q, q.clone(), torch.tensor(20.0), Diagonal(), columns=True)
    triton_pair.forward(problem, workspace=8 * 640)  # one row block of partials at a time
    assert len(launches) == 640 // 128


def test_more_keys_than_a_grid_has_room_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA would have refused the launch; `auto` takes the blocked back end instead."""
    monkeypatch.setattr(triton_launch, "interpreted", lambda: True)
    q, k = torch.zeros(2, 4), torch.zeros(1, 4)
    for most, refused in (
        (triton_launch.MOST_COLUMNS, False),
        (triton_launch.MOST_COLUMNS + 1, True),
    ):
        problem = Problem(q, k.expand(most, 4), torch.tensor(1.0), Diagonal())
        reason = triton_launch.unsupported(problem)
        assert ("4,194,241 keys" in (reason or "")) == refused
    narrowest = min(tile.cols for tile in (*tile_table._TABLE.values(), *tile_table._SAFE.values()))
    assert 65_535 * narrowest == triton_launch.MOST_COLUMNS


def test_a_triton_without_what_the_kernels_use_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def modules() -> None:
        raise AttributeError("module 'triton' has no attribute 'constexpr_function'")

    monkeypatch.setattr(triton_launch, "modules", modules)
    q = torch.zeros(8, 4)
    reason = triton_launch.unsupported(Problem(q, q, torch.tensor(1.0), Diagonal()))
    assert reason is not None
    assert "this Triton is too old" in reason


def test_inputs_that_cannot_run_are_refused_with_a_reason() -> None:
    q = torch.zeros(8, 4)
    reason = triton_launch.unsupported(Problem(q, q, torch.tensor(1.0), Diagonal()))
    assert reason is not None
    assert "need a CUDA device" in reason
    with pytest.raises(ValueError, match="cannot run this"):
        triton_pair.forward(Problem(q.double(), q.double(), torch.tensor(1.0), Diagonal()))
