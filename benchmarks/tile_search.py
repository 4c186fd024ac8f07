"""Search for the fastest tiles of the Triton kernels on the card available.

Every family of kernels runs on a problem of the size and dtype asked for, once per candidate tile;
candidates that the card cannot hold are left out. The winner replaces the entry of the fixed table
(`triton_tune`) for this compute capability. `benchmarks/bench_tiles.py` is the command.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from common.kernels.core.problem import Problem, Upstream
from common.kernels.gpu import backend as triton_backend
from common.kernels.gpu.launch import Plan
from common.kernels.gpu.tile_table import Key, TileConfig, default_tile, override
from common.kernels.specs.weights import Diagonal, Exclude, ExcludeSelf, Spec, Threshold

Timer = Callable[[Callable[[], object]], float]
FAMILIES = ("lse", "rows", "grad", "kept", "softplus", "softplus_grad")
VARIANTS = ("plain", "light", "masked", "features")


def candidates(family: str, operand: str) -> list[TileConfig]:
    """Tiles worth timing: powers of two around the fixed table."""
    if family == "kept":
        sizes = product((32, 64, 128), (64, 128, 256), (16,), (4, 8), (1,))
    elif operand in ("float", "tf32"):
        sizes = product((32, 64, 128), (64, 128), (16, 32), (4, 8), (2, 3))
    else:
        sizes = product((64, 128), (64, 128, 256), (32, 64), (4, 8), (2, 3, 4))
    return [TileConfig(*size) for size in sizes]


def tune(
    num: int,
    dim: int,
    dtype: torch.dtype,
    timer: Timer | None = None,
    families: Sequence[str] = FAMILIES,
    variants: Sequence[str] = VARIANTS,
    tiles: Callable[[str, str], list[TileConfig]] = candidates,
    device: str = "cuda",
) -> dict[Key, tuple[TileConfig, float, float]]:
    """Time all candidates.

    Args:
        num: rows and columns N = M, >= 512 so that the fixed shift is used.
        dim: embedding size D.
        dtype: float32, float16 or bfloat16.
        timer: milliseconds of a call; default Triton's, on CUDA events.
        families: kernels to tune.
        variants: how much a tile holds besides its scores.
        tiles: candidates of a family and operand ("half", "tf32" or "float").
        device: where the problem lives.

    Returns:
        Table key -> best tile, its milliseconds, those of the fixed table. The time of a backward
        contains its dense products.
    """
    if timer is None:
        from triton.testing import do_bench

        timer = lambda run: float(do_bench(run, return_mode="median"))  # noqa: E731
    best: dict[Key, tuple[TileConfig, float, float]] = {}
    for variant in variants:
        problem = _problem(variant, num, dim, dtype, device)
        for family in families:
            key, run = _workload(problem, family, variant)
            times = dict(_times(key, run, timer, tiles(family, key[2])))
            if times:
                winner = min(times, key=lambda tile: times[tile])
                best[key] = winner, times[winner], times.get(default_tile(key), float("nan"))
    return best


def _times(
    key: Key, run: Callable[[], object], timer: Timer, tiles: list[TileConfig]
) -> Iterator[tuple[TileConfig, float]]:
    from triton.compiler.errors import CompilationError
    from triton.runtime.errors import OutOfResources, PTXASError

    for tile in dict.fromkeys([default_tile(key), *tiles]):
        override(key, tile)
        try:
            yield tile, timer(run)
        except (OutOfResources, PTXASError, CompilationError):
            continue
        except RuntimeError as error:  # a pass of the compiler; an error of the device is none
            if "PassManager" not in str(error):
                raise
        finally:
            override(key, None)


def _problem(variant: str, num: int, dim: int, dtype: torch.dtype, device: str) -> Problem:
    generator = torch.Generator().manual_seed(0)
    q, k = (F.normalize(torch.randn(num, dim, generator=generator)) for _ in range(2))
    ids = (torch.arange(num) // 2).to(device)
    u = q[:, :64].contiguous().to(device)
    specs: dict[str, Spec] = {
        "plain": Diagonal(),
        "light": Diagonal() & ExcludeSelf(),
        "masked": Diagonal() & Exclude(ids, ids),
        "features": Diagonal() & Threshold(u, u, torch.ones(num, device=device)),
    }
    scale = torch.tensor(20.0, device=device)
    spec = specs[variant].prepare()
    return Problem(q.to(device, dtype), k.to(device, dtype), scale, spec, columns=True)


def _workload(problem: Problem, family: str, variant: str) -> tuple[Key, Callable[[], Any]]:
    """Table key, and a call whose time depends on the tiles of one family only."""
    num, device = problem.num_rows, problem.q.device
    plan = Plan.make(problem)
    key = family, plan.capability[0], plan.operand, variant
    bias, ones = torch.zeros((), device=device), torch.ones(num, device=device)
    if family in ("softplus", "softplus_grad"):
        if family == "softplus":
            return key, lambda: triton_backend.softplus_forward(problem, bias, None)
        return key, lambda: triton_backend.softplus_backward(problem, bias, None, ones, True, True)
    keep = 4 * num * num if family in ("rows", "kept") else 0
    problem = replace(problem, keep=keep)
    if family in ("lse", "rows"):
        return key, lambda: triton_backend.forward(problem)
    stats, up = triton_backend.forward(problem), Upstream(ones, ones, -ones, None)
    return key, lambda: triton_backend.backward(problem, stats, up, True, True)
