"""Cases for the Triton kernels, run by Triton's interpreter in a process of its own.

``python -m tests.unit.kernels.triton_cases GROUP`` with TRITON_INTERPRET=1 prints one JSON object:
case name -> {quantity: relative error against the float64 dense reference}.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels import (
    reference,
    triton_backend,
    triton_launch,
    triton_pair,
    triton_program,
    triton_rows,
)  # fmt: skip
from common.kernels.fused_rows import row_values, valid_rows
from common.kernels.problem import Problem, Upstream, merge_rows
from common.kernels.specs import (
    All,
    Bias,
    Block,
    Diagonal,
    Exclude,
    ExcludePositive,
    ExcludeSelf,
    Index,
    Labels,
    LowRank,
    OnlyPositive,
    Partner,
    Spec,
    Threshold,
    Uniform,
    Valid,
    decode,
    encode,
)  # fmt: skip

N, M, D = 70, 101, 100
Errors = dict[str, float]


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def integers(high: int, size: int, seed: int = 3) -> Tensor:
    return torch.randint(high, (size,), generator=torch.Generator().manual_seed(seed))


def problem(spec: Spec, n: int = N, m: int = M, d: int = D, dtype: Any = torch.float32,
            scale: float = 14.0, same: bool = False, **options: Any) -> Problem:  # fmt: skip
    q = unit(n, d).to(dtype)
    k = q if same else unit(m, d, seed=1).to(dtype)
    return Problem(q, k, torch.tensor(scale), spec.prepare(), **options)


def error(got: Tensor, want: Tensor) -> float:
    """Largest difference relative to the largest entry; equal infinities count as equal."""
    got, want = got.detach().double(), want.detach().double()
    if got.shape != want.shape or not torch.equal(got.isfinite(), want.isfinite()):
        return float("inf")
    finite = want.isfinite()
    if not torch.equal(got[~finite], want[~finite]) or not finite.any():
        return 0.0 if torch.equal(got[~finite], want[~finite]) else float("inf")
    top = want[finite].abs().amax().clamp(min=1e-12)
    return float((got[finite] - want[finite]).abs().amax() / top)


def distance(got: Tensor, want: Tensor) -> float:
    """Norm of the difference relative to the norm."""
    if got.shape != want.shape:
        return float("inf")
    difference = (got.double() - want).norm()
    return float(difference / want.norm().clamp(min=1e-12))


def double(p: Problem) -> tuple[Problem, dict[str, Tensor]]:
    """The float64 problem of the same (rounded) inputs, with leaves that require gradients."""
    leaves = {"q": p.q.double().requires_grad_(), "scale": p.scale.double().requires_grad_()}
    leaves["k"] = leaves["q"] if p.half else p.k.double().requires_grad_()
    if p.row_scale is not None:
        leaves["row_scale"] = p.row_scale.double().requires_grad_()
    return replace(p, spec=_to_double(p.spec), **leaves), leaves


def _to_double(spec: Spec) -> Spec:
    code, tensors = encode(spec)
    return decode(code, [t.double() if t.is_floating_point() else t for t in tensors])


def compare(p: Problem, **backward_options: Any) -> Errors:
    """Errors of all statistics and, for random upstream gradients, of all gradients."""
    ref, leaves = double(p)
    got, want = triton_pair.forward(p), reference.forward(ref)
    errors = {"row_lse": error(got.row_lse, want.row_lse)}
    errors["row_lin"] = error(got.row_lin, want.row_lin)
    outputs, upstream, used = [], [], []
    for name, letter in (("row_lse", "a"), ("col_lse", "b"), ("row_lin", "c"), ("row_mom", "e")):
        value = getattr(want, name)
        if value.numel() and value.requires_grad:
            if name != "row_lin":
                errors[name] = error(getattr(got, name), value)
            up = torch.randn(value.shape, generator=torch.Generator().manual_seed(ord(letter)))
            up = torch.where(value.isneginf(), 0.0, up.double() / len(value))
            outputs.append(value.masked_fill(value.isneginf(), 0.0) @ up)
            upstream.append(up.float())
            used.append(letter)
    if p.top1:
        errors["best"] = error(got.row_best, want.row_best)
        errors["hit"] = error(got.row_hit, want.row_hit)
    ups = Upstream(**dict(zip(used, upstream, strict=True)))
    names = (
        ["q", "scale"]
        + ([] if p.half else ["k"])
        + (["row_scale"] if p.row_scale is not None else [])
    )
    wants = dict(
        zip(names, torch.autograd.grad(sum(outputs), [leaves[n] for n in names]), strict=True)
    )
    grads = triton_pair.backward(p, got, ups, True, True, **backward_options)
    errors["dq"] = distance(grads.dq, wants["q"])
    if not p.half:
        errors["dk"] = distance(grads.dk, wants["k"])
    rho = torch.ones(()) if p.row_scale is None else p.row_scale
    top = grads.row_dot.abs().sum().clamp(min=1e-12)  # d scale is a sum with cancellation
    errors["dscale"] = float(((rho * grads.row_dot).sum() - wants["scale"]).abs() / top)
    if p.row_scale is not None:
        errors["drow_scale"] = distance(p.scale * grads.row_dot, wants["row_scale"])
    return errors


def compare_softplus(p: Problem, offset: Tensor | None, upstream: Tensor | None) -> Errors:
    ref, leaves = double(p)
    bias = torch.tensor(-3.0)
    bias64 = bias.double().requires_grad_()
    offset64 = None if offset is None else offset.double().requires_grad_()
    want = reference.softplus(ref, bias64, offset64)
    got = triton_backend.softplus_forward(p, bias, offset)
    if upstream is None:
        value, grads = triton_backend.softplus_fused(p, bias, offset, True, True)
    else:
        value = got
        grads = triton_backend.softplus_backward(p, bias, offset, upstream, True, True)
    up = torch.ones(len(want)) if upstream is None else upstream
    inputs = [leaves["q"], leaves["k"], leaves["scale"], bias64]
    inputs += [] if offset64 is None else [offset64]
    dq, dk, dscale, dbias, *doffset = torch.autograd.grad(want @ up.double(), inputs)
    assert grads.row_sum is not None
    assert grads.d_offset is not None
    errors = {"row_sp": error(got, want), "dq": distance(grads.dq, dq)}
    errors["dk"] = distance(grads.dk, dk)
    top = grads.row_dot.abs().sum()
    errors["dscale"] = float((grads.row_dot.sum() - dscale).abs() / top)
    errors["dbias"] = float((grads.row_sum.sum() - dbias).abs() / grads.row_sum.abs().sum())
    if doffset:
        errors["doffset"] = distance(grads.d_offset, doffset[0])
    errors["fused"] = error(value, want)
    return errors


def labels(classes: int = 7, **options: Any) -> Labels:
    return Labels(integers(classes, N), integers(classes, N), exclude_self=True, **options)


def features(seed: int = 5) -> tuple[Tensor, Tensor]:
    return unit(N, 24, seed=seed).float(), unit(M, 24, seed=seed + 1).float()


def confident(dtype: torch.dtype) -> Errors:
    """Rows with P_ii about 0.9995: the gradient is the small difference P_ii - 1."""
    return compare(_confident_problem(dtype))


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
    return {"not_nan": float(not lost.isnan()), "row_lse": safe["row_lse"], "dq": safe["dq"]}


def broken() -> Errors:
    """Negative twin: the statistics of a spec differ from those of its neighbour."""
    return {"row_lse": error(
        triton_pair.forward(problem(Diagonal())).row_lse,
        triton_pair.forward(problem(Diagonal() & ExcludePositive())).row_lse,
    )}  # fmt: skip


def compare_api(run: Callable[[list[Tensor], str], Tensor]) -> Errors:
    """Value and gradients through the public functions: Triton against dense float64."""
    scale = torch.tensor(14.0)
    inputs = [unit(N, D).float(), unit(N, D, seed=1).float(), scale]
    doubles = [x.double().requires_grad_() for x in inputs]
    leaves = [x.clone().requires_grad_() for x in inputs]
    got, want = run(leaves, "triton"), run(doubles, "dense")
    errors = {"value": error(got, want)}
    grads = torch.autograd.grad(got, leaves, allow_unused=True)
    wants = torch.autograd.grad(want, doubles, allow_unused=True)
    for name, mine, reference_grad in zip(("dq", "dk", "dscale"), grads, wants, strict=True):
        if reference_grad is not None:
            assert mine is not None
            errors[name] = distance(mine, reference_grad)
    return errors


def kept(share: float, spec: Spec, dtype: Any = torch.float32, chunk: int = 2**28,
         confident: bool = False, **options: Any) -> Errors:  # fmt: skip
    """Kept exponentials: errors against float64, and that as many rows are kept as may be."""
    p = _confident_problem(dtype) if confident else problem(spec, dtype=dtype, **options)
    size = triton_launch.kept_dtype(p).itemsize
    p = replace(p, keep=int(share * p.num_rows * p.num_cols * size))
    stats = triton_pair.forward(p)
    shift, count, kept_dtype = triton_pair.kept_shapes(p)
    rows = p.num_rows if share >= 1 else int(share * p.num_rows) // 32 * 32
    right = (stats.shift.shape, stats.kept.numel(), stats.kept.dtype) == (shift, count, kept_dtype)
    return compare(p, workspace=chunk) | {"kept": float(not right or count != rows * p.num_cols)}


def _confident_problem(dtype: torch.dtype) -> Problem:
    q = unit(64, 128).to(dtype)
    k = F.normalize(0.9 * q.double() + 0.25 * unit(64, 128, seed=9), dim=1).to(dtype)
    return Problem(q, k, torch.tensor(16.0), Diagonal(), columns=True)


def compare_rows(p: Problem, workspace: int = 2**28, join: bool = False) -> Errors:
    """The fused one-sided loss: values and gradients of its sum against float64."""
    assert triton_backend.fuses_rows(p)
    ref, leaves = double(p)
    want = reference.forward(ref)
    valid = valid_rows(ref, want.row_lse)
    total = torch.where(valid, row_values(want.row_lse, want.row_lin, join), 0.0).sum()
    names = ["q", "k", "scale"]
    wants = torch.autograd.grad(total, [leaves[n] for n in names])
    got, grads = triton_rows.info_nce_rows(p, True, True, join, workspace)
    errors = {n: error(getattr(got, n), getattr(want, n)) for n in ("row_lse", "row_lin")}
    if p.top1:
        errors["hit"] = error(got.row_hit, want.row_hit)
    errors["dq"], errors["dk"] = distance(grads.dq, wants[0]), distance(grads.dk, wants[1])
    errors["dscale"] = float((grads.row_dot.sum() - wants[2]).abs() / grads.row_dot.abs().sum())
    return errors


def rows_without_gradients() -> Errors:
    """Evaluation: no exponentials are stored, the statistics are the same."""
    p = problem(Diagonal(), top1=True)
    want, full = triton_rows.info_nce_rows(p, True, True)
    got, grads = triton_rows.info_nce_rows(p, False, False)
    _, only_k = triton_rows.info_nce_rows(p, False, True)
    empty = grads.dq.numel() + grads.dk.numel() + grads.row_dot.numel() + only_k.dq.numel()
    return {"row_lse": error(got.row_lse, want.row_lse), "hit": error(got.row_hit, want.row_hit),
            "empty": float(empty), "dk": error(only_k.dk, full.dk)}  # fmt: skip


def rows_refused() -> Errors:
    """What the fused path may not take: running maxima, 16-bit tiles with several positives."""
    labels_ = Labels(integers(7, N), integers(7, M))
    refused = [
        problem(Diagonal(), unit_norm=False), problem(Diagonal(), row_scale=torch.ones(N)),
        problem(labels_, dtype=torch.bfloat16), problem(Block(1), m=N, dtype=torch.bfloat16),
        problem(Diagonal() & Bias(torch.zeros(N))),
    ]  # fmt: skip
    taken = [problem(labels_), problem(Diagonal(), dtype=torch.bfloat16)]
    wrong = [p for p in refused if triton_backend.fuses_rows(p)]
    wrong += [p for p in taken if not triton_backend.fuses_rows(p)]
    return {"wrong": float(len(wrong))}


def tuner() -> Errors:
    """The search runs every family with every candidate, keeps the best, and changes no result."""
    from common.kernels.triton_search import FAMILIES, tune
    from common.kernels.triton_tune import TileConfig, tile_config

    small, large = TileConfig(16, 32, 16, 1, 1), TileConfig(32, 64, 16, 1, 1)
    ran: list[Any] = []

    def timer(run: Callable[[], Any]) -> float:  # the third candidate wins
        ran.append(run())
        return 1.0 if len(ran) % 3 == 0 else 2.0

    found = tune(40, 16, torch.float32, timer, variants=("plain",), device="cpu",
                 tiles=lambda *_: [small, large])  # fmt: skip
    wrong = len(found) != len(FAMILIES) or any(tile != large for tile, *_ in found.values())
    fields = [x if isinstance(x, Tensor) else torch.cat([t.flatten() for t in x if t is not None and t.numel() > 1])
              for x in ran]  # fmt: skip
    worst = max(error(fields[i + j], fields[i]) for i in range(0, len(ran), 3) for j in (1, 2))
    left = tile_config("lse", torch.float32, 64, (0, 0), "plain") != TileConfig(32, 32, 32, 1, 1)
    return {"wrong": float(wrong or left or len(ran) != 3 * len(FAMILIES)), "changed": worst}


def fake_shapes() -> Errors:
    """The operators' fake implementations give the shapes and dtypes of the real ones."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from common.kernels import ops
    from common.kernels.arguments import flatten

    wrong = 0
    for dtype, keep in ((torch.float32, 2**30), (torch.bfloat16, 2**30), (torch.bfloat16, 0)):
        p = problem(Diagonal(), dtype=dtype, columns=True, top1=True, keep=keep)
        side, code, flags = flatten(p)
        real = ops.pair_stats_op(p.q, p.k, p.scale, None, side, code, flags, "triton")
        with FakeTensorMode() as mode:
            q, k, scale = (mode.from_tensor(x) for x in (p.q, p.k, p.scale))
            fake = ops.pair_stats_op(q, k, scale, None, side, code, flags, "triton")
        wrong += sum(
            (a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(real, fake, strict=True)
        )
    return {"wrong": float(wrong)}


def _api_cases() -> dict[str, Callable[[], Errors]]:
    from common.kernels import info_nce, nt_xent_spec, pair_softplus
    from common.losses import functional as losses

    def nt_xent(x: list[Tensor], backend: str) -> Tensor:
        z = torch.cat([x[0][:35], x[1][:35]])
        return info_nce(z, z, x[2], nt_xent_spec(35), symmetric=False, backend=backend)

    return {
        "api_clip": lambda: compare_api(lambda x, b: info_nce(*x, backend=b)),
        "api_nt_xent": lambda: compare_api(nt_xent),
        "api_rows": lambda: compare_api(
            lambda x, b: info_nce(*x, symmetric=False, reduction="sum", backend=b, top1=True)
        ),
        "api_join": lambda: compare_api(
            lambda x, b: losses.info_nce(*x, queue=x[1][:9].flip(1), backend=b).loss
        ),
        "api_join_rows": lambda: compare_api(
            lambda x, b: losses.info_nce(*x, backend=b).per_sample.square().sum()
        ),
        "api_siglip_rows": lambda: compare_api(
            lambda x, b: losses.siglip(*x, backend=b).per_sample.square().sum()
        ),
        "api_kept": lambda: compare_api(lambda x, b: info_nce(*x, backend=b, memory_budget=2**20)),
        "api_siglip": lambda: compare_api(
            lambda x, b: pair_softplus(*x, Diagonal(), bias=-5.0, reduction="mean", backend=b)
        ),
    }


def all_cases() -> dict[str, dict[str, Callable[[], Errors]]]:
    u, v = features()
    ids, keys = integers(9, N), integers(9, M, seed=4)
    valid = Valid(integers(4, N) > 0, integers(4, M, seed=6) > 0)
    empty_rows = Valid(torch.arange(N) != 5, None)
    thr = torch.full((N,), 0.1)
    half = torch.bfloat16
    fp32 = {
        "clip": lambda: compare(problem(Diagonal(), m=N, columns=True, top1=True)),
        "online": lambda: compare(problem(Diagonal(), columns=True, unit_norm=False, moment=True)),
        "index": lambda: compare(problem(Index(integers(M + 1, N) - 1), columns=True, top1=True)),
        "block": lambda: compare(problem(Block(3), n=33, m=99)),
        "nt_xent": lambda: compare(
            problem(Partner(35) & ExcludeSelf(), same=True, half=True, top1=True)
        ),
        "nt_xent_online": lambda: compare(
            problem(Partner(35) & ExcludeSelf(), same=True, half=True, unit_norm=False)
        ),
        "nt_xent_chunks": lambda: compare(
            problem(Partner(35) & ExcludeSelf(), same=True, half=True), workspace=4 * N * 32
        ),
        "nt_xent_full": lambda: compare(problem(Partner(35) & ExcludeSelf(), m=N, columns=True)),
        "sup_con": lambda: compare(problem(labels(), same=True, half=True, top1=True)),
        "sup_con_sum": lambda: compare(problem(labels(average=False), m=N, columns=True)),
        "dcl": lambda: compare(problem(Diagonal(0.7) & ExcludePositive(), top1=True)),
        "sup_con_in": lambda: compare(problem(labels() & OnlyPositive(), m=N)),
        "exclude": lambda: compare(problem(Diagonal() & Exclude(ids, keys), columns=True)),
        "exclude_second": lambda: compare(
            problem(Diagonal() & Exclude(ids, keys, integers(9, N, seed=8), keep_positive=False))
        ),
        "valid": lambda: compare(problem(Diagonal() & valid, columns=True)),
        "empty_row": lambda: compare(
            problem(Diagonal() & empty_rows, columns=True, moment=True, unit_norm=False)
        ),
        "empty_row_fixed": lambda: compare(problem(Diagonal() & empty_rows, columns=True)),
        "or": lambda: compare(
            problem(Diagonal() & (ExcludePositive() | (Exclude(ids, keys) & valid)), columns=True)
        ),
        "lowrank": lambda: compare(problem(LowRank(u, v, factor=0.5, shift=0.5), columns=True)),
        "lowrank_relu": lambda: compare(
            problem(LowRank(u, v, "relu", masked=True) & Exclude(ids, keys), moment=True)
        ),
        "lowrank_softmax": lambda: compare(
            problem(LowRank(u, v, "softmax", 3.0, row_shift=(3 * u @ v.T).logsumexp(1)))
        ),
        "threshold": lambda: compare(
            problem(Diagonal() & Threshold(u, v, thr, torch.full((M,), 0.2)), columns=True)
        ),
        "threshold_rows": lambda: compare(
            problem(Diagonal() & Threshold(u, v, thr, keep_positive=False), columns=True)
        ),
        "bias": lambda: compare(
            problem(Diagonal() & Bias(u[:, 0], v[:, 0], u, v, 0.3, 1.5), columns=True, top1=True)
        ),
        "lowrank_affine_scaled": lambda: compare(
            problem(
                LowRank(u, v, factor=0.5, shift=0.5) & Diagonal(), row_scale=0.5 + torch.rand(N)
            )
        ),
        "lowrank_affine_self": lambda: compare(
            problem(LowRank(u, u, factor=0.3) & ExcludeSelf(), same=True, half=True, m=N)
        ),
        "smoothing": lambda: compare(problem(Diagonal(0.9) & Uniform(0.1 / M), columns=True)),
        "no_weights": lambda: compare(problem(All(), columns=True)),
        "row_scale": lambda: compare(
            problem(Diagonal(), columns=True, moment=True, row_scale=0.5 + torch.rand(N))
        ),
        "negative_scale": lambda: compare(
            problem(ExcludeSelf() & Diagonal(), scale=-5.0, moment=True, top1=True)
        ),
        "offsets": lambda: compare(problem(Diagonal(), row_start=40, col_start=7, columns=True)),
        "one_row": lambda: compare(problem(Diagonal(), n=1, m=1, d=16, columns=True)),
        "identical_100": lambda: identical(100.0),
        "tiny_scale": lambda: compare(problem(Diagonal(), scale=1e-3, columns=True)),
        "scaled_inputs": lambda: compare(
            replace(
                problem(Diagonal(), unit_norm=False, columns=True, scale=1e-3),
                q=unit(N, D).float() * 1e3,
            )
        ),
        "d_48": lambda: compare(problem(Diagonal(), d=48, columns=True)),
        "kept": lambda: kept(1.0, Diagonal(), columns=True, top1=True),
        "kept_half": lambda: kept(0.6, Diagonal() & Exclude(ids, keys), columns=True),
        "kept_labels": lambda: kept(1.0, Labels(ids, keys), columns=True, chunk=4 * M * 32),
        "kept_rows": lambda: kept(1.0, Index(integers(M + 1, N) - 1)),
        "rows": lambda: compare_rows(problem(Diagonal(), top1=True)),
        "rows_chunks": lambda: compare_rows(problem(Diagonal() & valid), 4 * M * 32),
        "rows_index": lambda: compare_rows(
            problem(Index(integers(M + 1, N) - 1, 0.7) & ExcludePositive(), top1=True)
        ),
        "rows_join": lambda: compare_rows(
            problem(Diagonal() & ExcludePositive() & valid, top1=True), join=True
        ),
        "rows_join_all": lambda: compare_rows(problem(LowRank(u, v, factor=0.1)), join=True),
        "rows_labels": lambda: compare_rows(problem(Labels(ids, keys) & Uniform(0.01))),
        "rows_lowrank": lambda: compare_rows(problem(LowRank(u, v, factor=0.5, shift=0.5))),
        "rows_empty": lambda: compare_rows(problem(Diagonal() & empty_rows)),
        "rows_offsets": lambda: compare_rows(problem(Diagonal(), row_start=40, col_start=7)),
        "rows_without_gradients": rows_without_gradients,
        "rows_refused": rows_refused,
        "fake_shapes": fake_shapes,
        "tuner": tuner,
        "repeats": repeats,
        "too_large_a_scale": too_large_a_scale,
        "shards": shards,
        "broken": broken,
        "siglip": lambda: compare_softplus(problem(Diagonal(), m=N), None, None),
        "siglip_up": lambda: compare_softplus(problem(Diagonal(), scale=80.0), None, torch.rand(N)),
        "row_off": lambda: compare_softplus(
            problem(Diagonal(), m=N), torch.where(torch.arange(N) == 3, -torch.inf, 0.5), None
        ),
        "hydra": lambda: compare_softplus(
            problem(labels() & OnlyPositive(), m=N), torch.rand(N) * 3, torch.rand(N)
        ),
    }
    bf16 = {
        "clip_bf16": lambda: compare(problem(Diagonal(), dtype=half, columns=True, top1=True)),
        "clip_fp16": lambda: compare(problem(Diagonal(), dtype=torch.float16, columns=True)),
        "clip_fp16_g": lambda: compare(
            problem(Diagonal(), dtype=torch.float16, columns=True), g_dtype=torch.float16
        ),
        "online_bf16": lambda: compare(
            problem(Diagonal(), dtype=half, columns=True, unit_norm=False, moment=True)
        ),
        "sup_con_bf16": lambda: compare(problem(labels(), dtype=half, same=True, half=True)),
        "row_scale_bf16": lambda: compare(
            problem(Diagonal(), dtype=half, columns=True, row_scale=0.5 + torch.rand(N))
        ),
        "d_16_bf16": lambda: compare(problem(Diagonal(), dtype=half, d=16, columns=True)),
        "d_768_bf16": lambda: compare(problem(Diagonal(), n=40, m=50, dtype=half, d=768)),
        "d_1024_bf16": lambda: compare(problem(Diagonal(), n=40, m=50, dtype=half, d=1024)),
        "confident_bf16": lambda: confident(half),
        "kept_bf16": lambda: kept(1.0, Diagonal(), half, columns=True),
        "kept_labels_bf16": lambda: kept(1.0, Labels(ids, keys), half, columns=True),
        "confident_kept_bf16": lambda: kept(1.0, Diagonal(), half, confident=True),
        "rows_bf16": lambda: compare_rows(problem(Diagonal(), dtype=half)),
        "rows_join_bf16": lambda: compare_rows(
            problem(Diagonal() & ExcludePositive(), dtype=half), join=True
        ),
        "rows_fp16": lambda: compare_rows(problem(Index(integers(M, N)), dtype=torch.float16)),
        "rows_partner_bf16": lambda: compare_rows(problem(Partner(35) & valid, dtype=half)),
        "confident_rows_bf16": lambda: compare_rows(
            replace(_confident_problem(half), columns=False)
        ),
        "siglip_bf16": lambda: compare_softplus(
            problem(Diagonal(), m=N, dtype=half), None, torch.rand(N)
        ),
    }
    return {"fp32": fp32, "bf16": bf16, "api": _api_cases()}


def main() -> None:
    """Run a group (or single cases) and print the errors."""
    torch.manual_seed(0)
    triton_launch._KEEP_ROWS = 32
    triton_launch.FIXED_SIZE = 1  # the small problems here must reach the fixed shift as well
    groups = all_cases()
    group = groups[sys.argv[1]]
    chosen = sys.argv[2:] or list(group)
    assert triton_program.lower(All()).code == "and"
    json.dump({name: group[name]() for name in chosen}, sys.stdout)


if __name__ == "__main__":
    main()
