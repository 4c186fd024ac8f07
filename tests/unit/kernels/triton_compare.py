"""Comparisons of the Triton kernels with the dense float64 reference, for ``triton_cases``.

Every comparison returns quantity -> relative error.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels.blocked.rows import row_values, valid_rows
from common.kernels.core import reference
from common.kernels.core.problem import Problem, Upstream
from common.kernels.gpu import backend as triton_backend
from common.kernels.gpu import run_pairs as triton_pair
from common.kernels.specs.weights import (
    Diagonal,
    Labels,
    Spec,
    decode,
    encode,
)

N, M, D = 44, 75, 40  # two tiles of 32 x 64 along each side, the second one not full
Errors = dict[str, float]


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def integers(high: int, size: int, seed: int = 3) -> Tensor:
    return torch.randint(high, (size,), generator=torch.Generator().manual_seed(seed))


def problem(
    spec: Spec,
    n: int = N,
    m: int = M,
    d: int = D,
    dtype: Any = torch.float32,
    scale: float = 14.0,
    same: bool = False,
    **options: Any,
) -> Problem:
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
    truth = reference.softplus(ref, bias64, offset64)
    want, got = truth.value, triton_backend.softplus_forward(p, bias, offset)
    sums = got
    if upstream is None:
        sums, grads = triton_backend.softplus_fused(p, bias, offset, True, True)
    else:
        grads = triton_backend.softplus_backward(p, bias, offset, upstream, True, True)
    up = torch.ones(len(want)) if upstream is None else upstream
    inputs = [leaves["q"], leaves["k"], leaves["scale"], bias64]
    inputs += [] if offset64 is None else [offset64]
    dq, dk, dscale, dbias, *doffset = torch.autograd.grad(want @ up.double(), inputs)
    assert grads.row_sum is not None
    assert grads.d_offset is not None
    errors = {"row_sp": error(got.value, want), "dq": distance(grads.dq, dq)}
    errors["dk"] = distance(grads.dk, dk)
    top = grads.row_dot.abs().sum()
    errors["dscale"] = float((grads.row_dot.sum() - dscale).abs() / top)
    errors["dbias"] = float((grads.row_sum.sum() - dbias).abs() / grads.row_sum.abs().sum())
    if doffset:
        errors["doffset"] = distance(grads.d_offset, doffset[0])
    errors["fused"] = error(sums.value, want)
    if p.top1:
        for name, actual in (("", got), ("fused_", sums)):
            errors[name + "best"] = error(actual.best, truth.best)
            errors[name + "positive"] = error(actual.positive, truth.positive)
            errors[name + "hit"] = float((actual.hit != truth.hit).sum())
    return errors


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


def confident_problem(dtype: torch.dtype) -> Problem:
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
    got, grads = triton_backend.info_nce_rows(p, True, True, join, workspace)
    errors = {n: error(getattr(got, n), getattr(want, n)) for n in ("row_lse", "row_lin")}
    if p.top1:
        errors["hit"] = error(got.row_hit, want.row_hit)
    errors["dq"], errors["dk"] = distance(grads.dq, wants[0]), distance(grads.dk, wants[1])
    errors["dscale"] = float((grads.row_dot.sum() - wants[2]).abs() / grads.row_dot.abs().sum())
    return errors


def labels(classes: int = 7, **options: Any) -> Labels:
    return Labels(integers(classes, N), integers(classes, N), exclude_self=True, **options)


def features(seed: int = 5) -> tuple[Tensor, Tensor]:
    return unit(N, 24, seed=seed).float(), unit(M, 24, seed=seed + 1).float()
