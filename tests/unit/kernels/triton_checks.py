"""Checks of the Triton kernels that are more than one comparison, for ``triton_cases``."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.kernels.core.problem import Problem, Upstream, merge_rows
from common.kernels.gpu import backend as triton_backend
from common.kernels.gpu import launch as triton_launch
from common.kernels.gpu import run_pairs as triton_pair
from common.kernels.specs.weights import (
    Bias,
    Block,
    Diagonal,
    ExcludePositive,
    Labels,
    Spec,
    Uniform,
)
from tests.unit.kernels.triton_compare import (
    Errors,
    M,
    N,
    compare,
    confident_problem,
    error,
    integers,
    problem,
    unit,
)

_ALLOCATIONS = ("aten::set_", "aten::empty", "aten::new_empty")


def confident(dtype: torch.dtype) -> Errors:
    """Rows with P_ii about 0.9995: the gradient is the small difference P_ii - 1."""
    return compare(confident_problem(dtype))


def identical(scale: float) -> Errors:
    q = unit(1, 64).expand(40, 64).contiguous().float()
    return compare(Problem(q, q.clone(), torch.tensor(scale), Diagonal(), columns=True))


def repeats() -> Errors:
    """Two runs are bit-equal; other chunk sizes agree to rounding."""
    p = problem(Diagonal() & ExcludePositive(), columns=True)
    up = Upstream(a=torch.ones(N) / N, b=torch.ones(M) / M, c=-torch.ones(N) / N)
    runs = []
    for workspace in (2**28, 2**28, 4 * M * 32):
        stats = triton_pair.forward(p, workspace=workspace)
        grads = triton_pair.backward(p, stats, up, True, True, workspace=workspace)
        runs.append((stats.row_lse, stats.col_lse, grads.dq, grads.dk))
    equal = all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    chunks = max(error(a, b) for a, b in zip(runs[0], runs[2], strict=True))
    return {"bit_equal": 0.0 if equal else 1.0, "chunks": chunks}


def shards() -> Errors:
    """The pair matrix cut into key blocks with offsets gives the whole."""
    whole = problem(Diagonal(0.5) & Uniform(0.01), columns=True, top1=True)
    want = triton_pair.forward(whole)
    cut = 45
    left = replace(whole, k=whole.k[:cut])
    right = replace(whole, k=whole.k[cut:], col_start=cut)
    merged = merge_rows(triton_pair.forward(left), triton_pair.forward(right))
    names = ("row_lse", "col_lse", "row_lin", "row_best", "row_hit")
    return {n: error(getattr(merged, n), getattr(want, n)) for n in names}


def too_large_a_scale() -> Errors:
    """Sums that a fixed shift cannot hold become NaN, never a wrong number; small sets are safe."""
    q = unit(40, 64).float()
    p = Problem(q, -q[:1].expand(40, 64).contiguous(), torch.tensor(300.0), Diagonal())
    lost = triton_pair.forward(p).row_lse[0]
    triton_launch.FIXED_SIZE = 512
    safe = compare(p)
    triton_launch.FIXED_SIZE = 1
    long = Problem(10 * q, 10 * q, torch.tensor(10.0), Diagonal())  # no unit rows: sums overflow
    burst = triton_pair.forward(long).row_lse
    return {
        "not_nan": float(not lost.isnan()),
        "row_lse": safe["row_lse"],
        "dq": safe["dq"],
        "overflow": float(not burst.isnan().all()),
    }


def broken() -> Errors:
    """Negative twin: the statistics of a spec differ from those of its neighbour."""
    return {
        "row_lse": error(
            triton_pair.forward(problem(Diagonal())).row_lse,
            triton_pair.forward(problem(Diagonal() & ExcludePositive())).row_lse,
        )
    }


def kept(
    share: float,
    spec: Spec,
    dtype: Any = torch.float32,
    chunk: int = 2**28,
    confident: bool = False,
    **options: Any,
) -> Errors:
    """Kept exponentials: errors against float64, and that as many rows are kept as may be."""
    p = confident_problem(dtype) if confident else problem(spec, dtype=dtype, **options)
    size = triton_launch.kept_dtype(p).itemsize
    p = replace(p, keep=int(share * p.num_rows * p.num_cols * size))
    stats = triton_pair.forward(p)
    shift, count, kept_dtype = triton_pair.kept_shapes(p)
    rows = p.num_rows if share >= 1 else int(share * p.num_rows) // 32 * 32
    right = (stats.shift.shape, stats.kept.numel(), stats.kept.dtype) == (shift, count, kept_dtype)
    return compare(p, workspace=chunk) | {"kept": float(not right or count != rows * p.num_cols)}


def rows_without_gradients() -> Errors:
    """Evaluation: no exponentials are stored, the statistics are the same."""
    p = problem(Diagonal(), top1=True)
    want, full = triton_backend.info_nce_rows(p, True, True)
    got, grads = triton_backend.info_nce_rows(p, False, False)
    _, only_k = triton_backend.info_nce_rows(p, False, True)
    empty = grads.dq.numel() + grads.dk.numel() + grads.row_dot.numel() + only_k.dq.numel()
    return {
        "row_lse": error(got.row_lse, want.row_lse),
        "hit": error(got.row_hit, want.row_hit),
        "empty": float(empty),
        "dk": error(only_k.dk, full.dk),
    }


def rows_refused() -> Errors:
    """What the fused path may not take: running maxima, 16-bit tiles with several positives."""
    labels_ = Labels(integers(7, N), integers(7, M))
    refused = [
        problem(Diagonal(), unit_norm=False),
        problem(Diagonal(), row_scale=torch.ones(N)),
        problem(labels_, dtype=torch.bfloat16),
        problem(Block(1), m=N, dtype=torch.bfloat16),
        problem(Diagonal() & Bias(torch.zeros(N))),
    ]
    taken = [problem(labels_), problem(Diagonal(), dtype=torch.bfloat16)]
    wrong = [p for p in refused if triton_backend.fuses_rows(p)]
    wrong += [p for p in taken if not triton_backend.fuses_rows(p)]
    return {"wrong": float(len(wrong))}


def tuner() -> Errors:
    """The search runs every family with every candidate, keeps the best, and changes no result."""
    from benchmarks.tile_search import FAMILIES, tune
    from common.kernels.gpu.tile_table import TileConfig, tile_config

    small, large = TileConfig(16, 32, 16, 1, 1), TileConfig(32, 64, 16, 1, 1)
    ran: list[Any] = []

    def timer(run: Callable[[], Any]) -> float:  # the third candidate wins
        ran.append(run())
        return 1.0 if len(ran) % 3 == 0 else 2.0

    actual = tune(
        40,
        16,
        torch.float32,
        timer,
        variants=("plain",),
        device="cpu",
        tiles=lambda *_: [small, large],
    )
    wrong = len(actual) != len(FAMILIES) or any(tile != large for tile, *_ in actual.values())
    fields = [
        (
            x
            if isinstance(x, Tensor)
            else torch.cat([t.flatten() for t in x if t is not None and t.numel() > 1])
        )
        for x in ran
    ]
    worst = max(error(fields[i + j], fields[i]) for i in range(0, len(ran), 3) for j in (1, 2))
    left = tile_config("lse", "float", 64, (0, 0), "plain") != TileConfig(32, 32, 32, 1, 1)
    return {"wrong": float(wrong or left or len(ran) != 3 * len(FAMILIES)), "changed": worst}


def by_descriptors(run: Callable[[], Errors]) -> Errors:
    """A case whose q and k the statistics read through tensor descriptors, as on compute capability
    9.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    from common.kernels.gpu.launch import Plan

    original, made = Plan.copied, 0

    def copied(_: Plan, x: Tensor, rows: int, depth: int) -> TensorDescriptor:
        nonlocal made
        made += 1
        return TensorDescriptor(x, list(x.shape), list(x.stride()), [rows, depth])

    Plan.copied = copied  # type: ignore[method-assign]
    try:
        return run() | {"unused": float(made == 0)}
    finally:
        Plan.copied = original  # type: ignore[method-assign]


def shapes() -> dict[str, list[tuple[list[int], str]]]:
    """Shapes and dtypes of the statistics, for three problems of `shape_problems`."""
    return {
        name: [(list(x.shape), str(x.dtype)) for x in statistics(p)]
        for name, p in shape_problems().items()
    }


def shape_problems() -> dict[str, Problem]:
    """Problems whose statistics differ in shape and dtype: with and without kept exponentials."""
    cases = {
        "fp32": (torch.float32, 2**30),
        "bf16": (torch.bfloat16, 2**30),
        "not_kept": (torch.bfloat16, 0),
    }
    return {
        name: problem(Diagonal(), dtype=dtype, columns=True, top1=True, keep=keep)
        for name, (dtype, keep) in cases.items()
    }


def statistics(p: Problem, change: Callable[[Tensor], Tensor] = lambda x: x) -> Sequence[Tensor]:
    """The registered operator, on `change` of the rows, the keys and the scale."""
    from common.kernels import ops
    from common.kernels.arguments import flatten

    inputs = map(change, (p.q, p.k, p.scale))
    return ops.pair_stats_op(*inputs, None, *flatten(p), "triton")  # type: ignore[no-any-return]


def host_calls() -> Errors:
    """Calls into aten of one loss with its backward, apart from the allocations, which the
    interpreter adds to.
    """
    from common.losses.image_text import ClipLoss, SigLipLoss

    calls: Errors = {}
    for name, loss, bias in (
        ("clip", ClipLoss(backend="triton", memory_budget=0), ()),  # the default on a card
        ("siglip", SigLipLoss(backend="triton", memory_budget=0), (-10.0,)),
    ):
        for rows in (32, 128):
            pair = [torch.randn(rows, 32, requires_grad=True) for _ in range(2)]
            numbers = [torch.tensor(x, requires_grad=True) for x in (10.0, *bias)]
            for _ in range(2):  # the first one fills caches
                with torch.autograd.profiler.profile() as profile:
                    loss(*pair, *numbers).loss.backward()
            outer = [e for e in profile.function_events if not _inside_aten(e)]
            counted = [e.name for e in outer if e.name.startswith("aten::")]
            calls[f"{name}_{rows}"] = sum(n not in _ALLOCATIONS for n in counted)
    return calls


def _inside_aten(event: Any) -> bool:
    return event.cpu_parent is not None and event.cpu_parent.name.startswith("aten::")
