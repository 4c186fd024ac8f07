"""Public interface of the pairwise contrastive kernels; formulation in docs/kernels.md."""

from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import dispatch, ops
from .arguments import flatten, make_problem, prepare
from .blocked.rows import valid_rows
from .core import reference
from .core.linear import is_symmetric
from .core.problem import Problem
from .dispatch import blocked_autograd
from .row_loss import info_nce_rows, softplus_rows
from .sharded import statistics as sharded
from .sharded.plan import Group, as_sharding
from .specs.weights import Diagonal, Spec

__all__ = ["PairStats", "blocked_autograd", "info_nce", "pair_softplus", "pair_stats"]

Reduction = Literal["mean", "sum", "none"]


class PairStats(NamedTuple):
    """Statistics of all pairs, float32 (float64 for float64 inputs); absent ones are None.

    row_lse (N,), col_lse (M,), row_lin (N,), row_mom (N,), top1 (N,) bool.
    """

    row_lse: Tensor
    col_lse: Tensor | None
    row_lin: Tensor
    row_mom: Tensor | None
    top1: Tensor | None = None


def pair_stats(
    q: Tensor,
    k: Tensor,
    scale: Tensor | float,
    spec: Spec,
    *,
    columns: bool = False,
    moment: bool = False,
    top1: bool = False,
    unit_norm: bool = True,
    row_scale: Tensor | None = None,
    row_start: int = 0,
    col_start: int = 0,
    group: Group = None,
    backend: str = "auto",
    memory_budget: int | None = 0,
    deterministic: bool = True,
    precision: str = "exact",
) -> PairStats:
    """Row and column statistics of all query-key pairs in O((N + M) D) memory.

    With s_ij = scale * row_scale_i * <q_i, k_j>::

        row_lse_i = log sum_{j in A(i)} exp(s_ij + beta_ij)
        col_lse_j = log sum_{i in B(j)} exp(s_ij + beta_ij)
        row_lin_i = sum_j omega_ij s_ij
        row_mom_i = sum_{j in A(i)} pi_ij s_ij,  pi = softmax of s + beta over A(i)

    Differentiable in q, k, scale, row_scale; second derivatives store the N x M matrix. A row or
    column without any pair has an lse of -inf and no gradient; the caller masks it. Pass the same
    tensor as q and k where keys are the queries: symmetric problems then cost half.

    Args:
        q: (N, D) queries, float64, float32, float16 or bfloat16. Half precision is accumulated in
            float32, also under autocast.
        k: (M, D) keys; without requires_grad nothing is computed for them.
        scale: multiplier (inverse temperature), a number or a one-element tensor; may need grad.
        spec: masks A and B, weights omega, bias beta.
        columns: compute col_lse.
        moment: compute row_mom.
        top1: tell whether the largest logit of the row (among A and the positives; ties count)
            belongs to a positive.
        unit_norm: rows of q and k have unit norm. If that is wrong, results stay right on CPU, at
            a higher cost; on CUDA sums out of range become NaN.
        row_scale: (N,) per-query multiplier, may need grad.
        row_start: global index of the first query, for specs on a shard.
        col_start: global index of the first key.
        group: process group (or `sharding.Sharding`) over which rows and keys are split.
        backend: "auto", "dense", "blocked" or "triton".
        memory_budget: bytes of exponentials that may be kept for the backward (4 N M saves a whole
            GEMM; on CUDA 2 N M for 16-bit inputs with one positive per row). None is 64 MiB on a
            CPU, an eighth of the free memory on CUDA for exact float32 products, else 0.
        deterministic: two runs are bit-equal. That holds on all back ends; False only permits
            atomic additions for the closed-form weights (labels, indices) on CUDA. No effect on
            CPU.
        precision: what products of float32 inputs may be rounded to: "exact", "tf32" or "half", see
            `core.problem.PRECISIONS`. No effect on CPU and in the dense back end, which are exact.

    Returns:
        PairStats of the local rows and columns.

    Raises:
        ValueError: shapes, dtypes or side data that do not fit; a back end that cannot run.

    Source: formulation of this repository; log-sum-exp tiles as in Cheng et al. 2024,
        arXiv 2410.17243, and Wijmans et al. 2024, arXiv 2411.09009.

    Distributed: gathers negatives if `group` is given, else local.

    >>> import math
    >>> z = torch.eye(2)
    >>> pair_stats(z, z, math.log(3.0), Diagonal()).row_lse.exp()
    tensor([4., 4.])
    """
    problem = make_problem(
        q,
        k,
        scale,
        spec,
        row_scale,
        row_start,
        col_start,
        columns,
        moment,
        top1,
        unit_norm,
        memory_budget,
        deterministic,
        precision,
    )
    shard = as_sharding(group)
    if shard is not None:
        stats = sharded.sharded_stats(problem, _tiled(problem, backend), shard)
        return _public(problem, tuple(stats))
    problem = prepare(problem)
    chosen = dispatch.choose(problem, backend)
    if chosen == "dense":
        with ops.autocast_off(q):
            return _public(problem, tuple(reference.forward(problem)))
    half = q is k and is_symmetric(problem)
    raw = ops.pair_stats_op(
        q, None if half else k, problem.scale, row_scale, *flatten(problem), chosen
    )
    return _public(problem, raw)


def _tiled(problem: Problem, backend: str) -> ModuleType:
    """The back end of one block of a sharded problem; blocked stands in for dense."""
    backend = "blocked" if backend == "dense" else backend
    return dispatch.tiled_module(dispatch.choose(problem, backend, tiled=True))


def _public(problem: Problem, raw: tuple[Tensor, ...]) -> PairStats:
    row_lse, col_lse, row_lin, row_mom, _, row_hit, *_ = raw
    if problem.columns and not len(col_lse):  # symmetric problem
        col_lse = row_lse
    return PairStats(
        row_lse,
        col_lse if problem.columns else None,
        row_lin,
        row_mom if problem.moment else None,
        row_hit > 0 if problem.top1 else None,
    )


def info_nce(
    q: Tensor,
    k: Tensor,
    scale: Tensor | float,
    spec: Spec | None = None,
    symmetric: bool = True,
    reduction: Reduction = "mean",
    **options: Any,
) -> Tensor:
    """InfoNCE from the statistics: row_lse - row_lin, averaged over both directions if symmetric.

    One-sided with reduction "mean" or "sum" the gradients are formed in the forward (3 instead of
    4 GEMM units). Rows without positives or without any counted pair do not contribute.

    Args:
        q: (N, D) queries.
        k: (M, D) keys; symmetric needs N = M.
        scale: multiplier (inverse temperature).
        spec: positives and masks; default `Diagonal()`.
        symmetric: average of q -> k and k -> q, with the weights omega for both.
        reduction: "mean" over contributing rows, "sum", or "none" for (N,) (0 where a row does
            not contribute).
        **options: as `pair_stats`.

    Returns:
        Scalar or (N,), float32 (float64 for float64 inputs).

    Raises:
        ValueError: as `pair_stats`; symmetric with N != M; an unknown reduction.

    Source: van den Oord et al. 2018, arXiv 1807.03748, Eq. 4; Radford et al. 2021, arXiv
    2103.00020.

    Distributed: gathers negatives if `group` is given; "mean" and "sum" then go over the
        rows of all ranks, with gradients as `Sharding.grad_reduction` needs them.

    >>> import math
    >>> z = torch.eye(2)
    >>> info_nce(z, z, math.log(3.0)).exp()  # (3 + 1) / 3
    tensor(1.3333)
    """
    _check_reduction(reduction)
    spec = Diagonal() if spec is None else spec
    if symmetric and q.shape[0] != k.shape[0]:
        raise ValueError(
            f"symmetric InfoNCE needs as many keys as queries, got {len(q)} and {len(k)}"
        )
    shard = as_sharding(options.pop("group", None))
    if shard is not None:
        backend = options.pop("backend", "auto")
        problem = make_problem(q, k, scale, spec, columns=symmetric, **options)
        module = _tiled(problem, backend)
        return sharded.sharded_info_nce(problem, module, shard, symmetric, reduction)
    if not symmetric and reduction != "none":
        fused = info_nce_rows(q, k, scale, spec, **options)
        if fused is not None:
            return fused.total if reduction == "sum" else fused.total / fused.num_valid.clamp(min=1)
    stats = pair_stats(q, k, scale, spec, columns=symmetric, **options)
    starts = {name: options.get(name, 0) for name in ("row_start", "col_start")}
    valid = valid_rows(make_problem(q, k, scale, spec, **starts), stats.row_lse)
    per_row = stats.row_lse - stats.row_lin
    if stats.col_lse is not None:
        per_row = 0.5 * (stats.row_lse + stats.col_lse) - stats.row_lin
        valid = valid & ~stats.col_lse.isneginf()
    per_row = torch.where(valid, per_row, 0)
    return _reduce(per_row, valid.sum(), reduction)


def _reduce(per_row: Tensor, count: Tensor | int, reduction: str) -> Tensor:
    if reduction == "none":
        return per_row
    total = per_row.sum()
    return total if reduction == "sum" else total / _at_least_one(count)


def _at_least_one(count: Tensor | int) -> Tensor | int:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)


def pair_softplus(
    q: Tensor,
    k: Tensor,
    scale: Tensor | float,
    spec: Spec,
    *,
    bias: Tensor | float = 0.0,
    row_offset: Tensor | None = None,
    reduction: Reduction = "none",
    group: Group = None,
    backend: str = "auto",
    **options: Any,
) -> Tensor:
    """Sums of softplus over the pairs of each query: SigLIP, positives of Hydra.

    With s_ij as in `pair_stats`, y_ij = -1 for positives of the spec and +1 else::

        row_sp_i = sum_{j in A(i)} softplus(y_ij (s_ij + bias + beta_ij) + row_offset_i)

    Differentiable in q, k, scale, row_scale, bias, row_offset as `pair_stats` is. With reduction "mean" or
    "sum" values and gradients come from one sweep (3 GEMM units, blocked back end).

    Args:
        q: (N, D) queries.
        k: (M, D) keys.
        scale: multiplier (inverse temperature).
        spec: positives and the mask A; weights omega are ignored.
        bias: number or one-element tensor added to every logit.
        row_offset: (N,) added per query outside the sign; -inf switches a query off.
        reduction: "none" for (N,), "sum", or "mean" over the N queries.
        group: process group (or `Sharding`); "mean" and "sum" go over all ranks then.
        backend: as `pair_stats`.
        **options: row_scale, row_start, col_start, unit_norm, memory_budget, deterministic,
        precision.

    Returns:
        (N,) or scalar, float32 (float64 for float64 inputs).

    Raises:
        ValueError: as `pair_stats`; a row_offset of another shape; an unknown reduction.

    Source: Zhai et al. 2023, arXiv 2303.15343, Alg. 1 (softplus of the negated signed logit).

    Distributed: gathers negatives if `group` is given, else local.

    >>> pair_softplus(torch.zeros(1, 2), torch.zeros(2, 2), 1.0, Diagonal()).exp()
    tensor([4.])
    """
    _check_reduction(reduction)
    rows = softplus_rows(
        q,
        k,
        scale,
        spec,
        bias=bias,
        row_offset=row_offset,
        fuse=reduction != "none",
        group=group,
        backend=backend,
        **options,
    )
    shard = as_sharding(group)
    if shard is not None:
        return sharded.reduce_rows(rows.per_row, rows.num_rows, shard, reduction)
    values = rows.per_row if rows.total is None else rows.total[None]
    return _reduce(values, len(q), reduction)


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be mean, sum or none, got {reduction!r}")
