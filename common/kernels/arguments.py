"""Checks of the public functions' arguments, and their translation for the operators."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from . import ops
from .core.problem import PRECISIONS, Problem, stat_dtype
from .specs.weights import Spec, encode

FIXED_SCALE = 120.0  # largest |scale| for which one shift serves all exponentials in float32
# bytes of `memory_budget=None`: all exponentials up to N = 4,096, where they save a fifth of the
# time; on other devices storing was not measured, and None is 0
CPU_BUDGET = 2**26


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
        (CPU_BUDGET if q.is_cpu else 0) if memory_budget is None else memory_budget,
        deterministic,
        precision,
    )


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
