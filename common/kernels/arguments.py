"""Checks of the public functions' arguments, and their translation for the operators."""

import math
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from . import ops
from .core.problem import PRECISIONS, Problem, stat_dtype
from .specs.weights import Spec, encode

FIXED_SCALE = 120.0  # largest |scale| for which one shift serves all exponentials in float32
# bytes of `memory_budget=None` on a CPU: all exponentials up to N = 4,096, where they save a fifth
# of the time
CPU_BUDGET = 2**26
CUDA_SHARE = 8  # `memory_budget=None` on CUDA is this part of the free memory


def make_problem(
    q: Tensor,
    k: Tensor,
    scale: Tensor | float,
    spec: Spec,
    row_scale: Tensor | None = None,
    row_start: int = 0,
    col_start: int = 0,
    columns: bool = False,
    moment: bool = False,
    top1: bool = False,
    unit_norm: bool = True,
    memory_budget: int | None = 0,
    deterministic: bool = True,
    precision: str = "exact",
) -> Problem:
    """A checked problem; the spec is not prepared yet.

    Raises:
        ValueError: for shapes, dtypes, devices or side data that do not fit together.
    """
    _check_pair(q, k)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    if not isinstance(scale, Tensor):
        if not -math.inf < scale < math.inf:  # as in `as_scale`
            raise ValueError(f"scale must be finite, got {scale}")
        if stat_dtype(q) == torch.float32 and abs(scale) > FIXED_SCALE:
            unit_norm = False  # one shift would not do: running maxima
        scale = q.new_full((), scale, dtype=stat_dtype(q))
    elif scale.numel() != 1:
        raise ValueError(
            f"scale must have one element, got shape {tuple(scale.shape)}; "
            "a multiplier per query goes into row_scale"
        )
    if row_scale is not None and row_scale.shape != (q.shape[0],):
        raise ValueError(f"row_scale must be ({q.shape[0]},), got {tuple(row_scale.shape)}")
    spec.check(q.shape[0], k.shape[0])
    return Problem(
        q,
        k,
        scale.reshape(()),
        spec,
        row_scale,
        row_start,
        col_start,
        columns,
        moment,
        top1,
        unit_norm,
        False,
        default_budget(q, precision) if memory_budget is None else memory_budget,
        deterministic,
        precision,
    )


def default_budget(q: Tensor, precision: str) -> int:
    """Bytes of `memory_budget=None`.

    On CUDA, float32 products without rounding are the only ones that are slower than reading what
    was stored: at D = 512, 1,024 operations at 67 TFLOP/s against 8 bytes at 3.35 TB/s (data sheet
    of an H100, not measured).

    Args:
        q: (N, D), the queries.
        precision: of the products.
    """
    if q.is_cpu:
        return CPU_BUDGET
    if not q.is_cuda or q.dtype != torch.float32 or precision != "exact":
        return 0
    return _cuda_budget(q.device) if torch.is_grad_enabled() else 0


@cache
def _cuda_budget(device: torch.device) -> int:
    """A share of the memory that is free when a device's first loss is computed, in bytes.

    The model's activations are there by then; the rest is for the optimiser's state. Asked for once
    in a process and rounded down to a power of two, so that steps and, but for other processes,
    runs take the same path. Ranks that share a batch store nothing; others need not agree, as the
    sweeps of their own rows have no collective.
    """
    if not torch.cuda.is_available():  # a fake tensor
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return 1 << max(0, (free // CUDA_SHARE).bit_length() - 1)


# as torch.compiler.assume_constant_result does, which would import the compiler here
vars(_cuda_budget)["_dynamo_marked_constant"] = True


def _check_pair(q: Tensor, k: Tensor) -> None:
    shapes = (
        f"q {tuple(q.shape)} {q.dtype} on {q.device}, k {tuple(k.shape)} {k.dtype} on {k.device}"
    )
    if q.ndim != 2 or k.ndim != 2 or q.shape[1] != k.shape[1]:
        raise ValueError(f"q and k must be (N, D) and (M, D), got {shapes}")
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"q and k must not be empty, got {shapes}")
    if not (q.is_floating_point() and k.is_floating_point()):
        raise ValueError(f"q and k must be floating point, got {shapes}")
    if (q.dtype == torch.float64) != (k.dtype == torch.float64) or q.device != k.device:
        raise ValueError(f"q and k must agree in device and in being float64, got {shapes}")


def prepare(problem: Problem) -> Problem:
    """The problem with derived side data; nothing is kept if no backward can follow."""
    needs_grad = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad
        for t in (problem.q, problem.k, problem.scale, problem.row_scale)
    )
    keep = problem.keep if needs_grad else -1
    return replace(
        problem, spec=problem.spec.prepare(problem.row_start - problem.col_start), keep=keep
    )


def flatten(problem: Problem) -> tuple[list[Tensor], str, list[int]]:
    """Side tensors, static description and flags for an operator."""
    description, tensors = encode(problem.spec)
    return tensors, description, ops.flags_of(problem)
