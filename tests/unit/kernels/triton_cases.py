"""Cases for the Triton kernels, run by Triton's interpreter in a process of its own.

``python -m tests.unit.kernels.triton_cases [CASE ...]`` with TRITON_INTERPRET=1 prints one JSON
object: group -> case name -> {quantity: relative error against the float64 dense reference}; in the
group "host" the quantities are counts, or shapes.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.kernels.gpu import launch as triton_launch
from common.kernels.gpu import lowering as triton_program
from common.kernels.gpu.tile_table import TileConfig, override
from common.kernels.specs.weights import (
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
    Threshold,
    Uniform,
    Valid,
)
from tests.unit.kernels.triton_checks import (
    broken,
    by_descriptors,
    confident,
    host_calls,
    identical,
    kept,
    repeats,
    rows_refused,
    rows_without_gradients,
    shapes,
    shards,
    too_large_a_scale,
    tuner,
)
from tests.unit.kernels.triton_compare import (
    D,
    Errors,
    M,
    N,
    compare,
    compare_api,
    compare_rows,
    compare_softplus,
    confident_problem,
    features,
    integers,
    labels,
    problem,
    unit,
)

TILE = TileConfig(32, 64, 64, 1, 1)


def _distilled() -> Errors:
    """The teacher's targets sum to 1 whatever the student's products are rounded to."""
    from common.losses.functional.soft import distillation

    return compare_api(
        lambda x, b: (
            distillation(
                *x[:2],
                x[0].flip(1),
                x[1].flip(1),
                x[2],
                60.0,
                relative=True,
                backend=b,
                precision="half",
            ).loss
        )
    )


def _api_cases() -> dict[str, Callable[[], Errors]]:
    from common.kernels.pair import info_nce, pair_softplus
    from common.kernels.specs.weights import nt_xent_spec
    from common.losses.functional.info_nce import info_nce as info_nce_loss
    from common.losses.functional.siglip import siglip

    def nt_xent(x: list[Tensor], backend: str) -> Tensor:
        z = torch.cat([x[0][: N // 2], x[1][: N // 2]])
        return info_nce(z, z, x[2], nt_xent_spec(N // 2), symmetric=False, backend=backend)

    return {
        "api_clip": lambda: compare_api(lambda x, b: info_nce(*x, backend=b)),
        "api_nt_xent": lambda: compare_api(nt_xent),
        "api_rows": lambda: compare_api(
            lambda x, b: info_nce(*x, symmetric=False, reduction="sum", backend=b, top1=True)
        ),
        "api_join": lambda: compare_api(
            lambda x, b: info_nce_loss(*x, queue=x[1][:9].flip(1), backend=b).loss
        ),
        "api_join_rows": lambda: compare_api(
            lambda x, b: info_nce_loss(*x, backend=b).per_sample.square().sum()
        ),
        "api_siglip_rows": lambda: compare_api(
            lambda x, b: siglip(*x, backend=b).per_sample.square().sum()
        ),
        "api_kept": lambda: compare_api(lambda x, b: info_nce(*x, backend=b, memory_budget=2**20)),
        "api_siglip": lambda: compare_api(
            lambda x, b: pair_softplus(*x, Diagonal(), bias=-5.0, reduction="mean", backend=b)
        ),
    }


def all_cases() -> dict[str, dict[str, Callable[[], Any]]]:
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
            problem(Partner(N // 2) & ExcludeSelf(), same=True, half=True, top1=True)
        ),
        "nt_xent_online": lambda: compare(
            problem(Partner(N // 2) & ExcludeSelf(), same=True, half=True, unit_norm=False)
        ),
        "nt_xent_chunks": lambda: compare(
            problem(Partner(N // 2) & ExcludeSelf(), same=True, half=True), workspace=4 * N * 32
        ),
        "nt_xent_full": lambda: compare(
            problem(Partner(N // 2) & ExcludeSelf(), m=N, columns=True)
        ),
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
        "d_100": lambda: compare(problem(Diagonal(), d=100, columns=True)),
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
        "tuner": tuner,
        "repeats": repeats,
        "too_large_a_scale": too_large_a_scale,
        "shards": shards,
        "broken": broken,
        "siglip": lambda: compare_softplus(problem(Diagonal(), m=N), None, None),
        "siglip_top": lambda: compare_softplus(
            problem(Diagonal(), m=N, top1=True, scale=-5.0), None, None
        ),
        "labels_top": lambda: compare_softplus(
            problem(Labels(ids, keys) & valid, top1=True), torch.rand(N), None
        ),
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
        "rows_partner_bf16": lambda: compare_rows(problem(Partner(N // 2) & valid, dtype=half)),
        "confident_rows_bf16": lambda: compare_rows(
            replace(confident_problem(half), columns=False)
        ),
        "siglip_bf16": lambda: compare_softplus(
            problem(Diagonal(), m=N, dtype=half), None, torch.rand(N)
        ),
    }
    read = {name: fp32[name] for name in ("online", "nt_xent", "d_48", "kept_half", "rows")}
    fp32 |= {f"{name}_tma": lambda run=run: by_descriptors(run) for name, run in read.items()}
    bf16["clip_bf16_tma"] = lambda: by_descriptors(bf16["clip_bf16"])
    # float32 inputs whose products may be rounded, against float64 of the inputs as they are
    allowed = {
        "clip": lambda: compare(problem(Diagonal(), columns=True, precision="half")),
        "long_rows": lambda: compare(
            problem(Diagonal(), columns=True, unit_norm=False, precision="half")
        ),
        "nt_xent": lambda: compare(
            problem(Partner(N // 2) & ExcludeSelf(), same=True, half=True, precision="half")
        ),
        "kept": lambda: kept(1.0, Diagonal(), columns=True, precision="half"),
        "rows": lambda: compare_rows(problem(Diagonal(), precision="half")),
        "confident": lambda: compare(replace(confident_problem(torch.float32), precision="half")),
        "siglip": lambda: compare_softplus(
            problem(Diagonal(), m=N, precision="half"), None, torch.rand(N)
        ),
        "distillation": _distilled,
    }
    fp32["tf32"] = lambda: compare(problem(Diagonal(), columns=True, precision="tf32"))
    return {
        "fp32": fp32,
        "bf16": bf16,
        "half": allowed,
        "api": _api_cases(),
        "host": {"calls": host_calls, "shapes": shapes},
    }


def main() -> None:
    """Run all cases (or those named) and print the errors."""
    torch.manual_seed(0)
    triton_launch._KEEP_ROWS = 32
    # an operation of the interpreter costs the same for a wide tile; self-comparisons need square
    # ones
    for family in ("lse", "rows", "grad", "kept", "softplus", "softplus_grad"):
        for variant in ("plain", "masked", "features"):
            for operand in ("float", "half", "tf32"):
                override((family, 0, operand, variant), TILE)
    triton_launch.FIXED_SIZE = 1  # the small problems here must reach the fixed shift as well
    assert triton_program.lower(All()).code == "and"
    actual = {
        group: {n: run() for n, run in cases.items() if not sys.argv[1:] or n in sys.argv}
        for group, cases in all_cases().items()
    }
    json.dump(actual, sys.stdout)


if __name__ == "__main__":
    main()
