"""One-sided InfoNCE on Triton with the gradients formed in the forward: 3 GEMM units.

`lse_kernel` stores the exponentials of a row chunk in the workspace; once their row sums Z are known
the two dense products follow at once, dq = (E k) / Z and dk += E^T (q / Z). The positives are left
out of 16-bit tiles: their part P_ip - omega_ip is a pair term in fp32 (see `linear`).
"""

# Shape suffixes: N queries, M keys, D dim, C rows of a chunk.

from dataclasses import replace

import torch
from torch import Tensor

from common.kernels.blocked.rows import row_weights, valid_rows
from common.kernels.core.linear import linear_backward, num_positives, split
from common.kernels.core.problem import Gradients, Problem, RawStats
from common.kernels.gpu.launch import (
    WORKSPACE_BYTES,
    Plan,
    fixed_shift,
    kept_dtype,
    matrix,
)
from common.kernels.gpu.launch import grad_dtype as _grad_dtype
from common.kernels.gpu.merge import accumulate, merge_splits, product
from common.kernels.gpu.run_pairs import finish_rows, lse_chunk
from common.kernels.specs.base import Spec
from common.kernels.specs.weights import Diagonal, Index, Partner


def fuses_rows(problem: Problem) -> bool:
    """Whether `info_nce_rows` can run: a fixed shift, and tiles that may hold the exponentials.

    With 16-bit inputs a row may have one positive only (Diagonal, Index, Partner).
    """
    return fixed_shift(problem) and kept_dtype(problem) == _grad_dtype(problem)


def info_nce_rows(
    problem: Problem,
    need_q: bool,
    need_k: bool,
    join: bool = False,
    workspace: int = WORKSPACE_BYTES,
) -> tuple[RawStats, Gradients]:
    """Row statistics and the gradients of the sum of `row_values` over valid rows.

    Args:
        problem: a problem for which `fuses_rows` holds; all weights have closed forms.
        need_q: whether dq (also for the scales) is wanted.
        need_k: whether dk is wanted.
        join: see `row_values`.
        workspace: bytes for the exponentials of a row chunk.
    """
    plan, dtype = Plan.make(problem), kept_dtype(problem)
    q_ND, k_MD = plan.q.to(dtype), plan.k.to(dtype)
    dq_ND = plan.scale.new_zeros(plan.q.shape) if need_q else None
    dk_MD = plan.scale.new_zeros(plan.k.shape) if need_k else None
    count = num_positives(problem.spec, problem.whole())
    counted = torch.ones_like(plan.q[:, 0], dtype=torch.float32)
    counted = counted if count is None else (count > 0).to(torch.float32)
    linear = plan.linear()  # weights that are not in tiles
    extra = plan.scale.new_zeros(problem.num_rows) if linear is None else linear * plan.scale
    parts: list[dict[str, Tensor]] = []
    chunks = plan.chunks(plan.tile("rows"), float(problem.num_cols * dtype.itemsize), workspace)
    buffer = plan.workspace(chunks, dtype) if need_q or need_k else None
    for r0, r1 in chunks:
        e_CM = None if buffer is None else matrix(buffer, r1 - r0, problem.num_cols)
        rows = merge_splits(lse_chunk(plan, r0, r1, False, e_CM)[0])
        parts.append(rows)
        if e_CM is None:
            continue
        inverse_C1 = _inverse(plan, rows, extra[r0:r1], counted[r0:r1], join)[:, None]
        if dq_ND is not None:
            product(e_CM, k_MD, dq_ND[r0:r1])
            dq_ND[r0:r1] *= inverse_C1
        if dk_MD is not None:
            accumulate(dk_MD, e_CM, (q_ND[r0:r1] * inverse_C1).to(dtype))
    pos = [p.pop("pos") for p in parts if "pos" in p]
    row = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    stats = finish_rows(plan, row)
    valid_N = valid_rows(problem, stats.row_lse).to(torch.float32) + _nan(stats.row_lse)
    valid_N = valid_N * row_weights(stats.row_lse, stats.row_lin, join)
    share = torch.cat(pos) * _inverse(plan, row, extra, counted, join) if pos else None
    _linear(problem, valid_N, share, dq_ND, dk_MD)
    dq, dk, row_dot = plan.scaled(dq_ND, dk_MD, torch.ones_like(plan.scale))
    return stats, Gradients(dq, dk, row_dot)


def _linear(
    problem: Problem, valid_N: Tensor, share_N: Tensor | None, dq: Tensor | None, dk: Tensor | None
) -> None:
    """Add -omega k (and, where the tiles lack it, P_ip k of the positive) to the accumulators."""
    atoms = split(problem.spec)[0]
    if share_N is not None:
        mark = next(a for a in atoms if isinstance(a, Diagonal | Index | Partner))
        weight = 1.0 if isinstance(mark, Partner) else mark.weight
        ones: Spec = mark if isinstance(mark, Partner) else replace(mark, weight=1.0)
        linear_backward([ones], problem, share_N - weight * valid_N, dq, dk, 1.0)
        atoms = [a for a in atoms if a is not mark]
    linear_backward(atoms, problem, -valid_N, dq, dk, 1.0)


def _inverse(
    plan: Plan, row: dict[str, Tensor], extra: Tensor, counted: Tensor, join: bool
) -> Tensor:
    """Weight / Z of the rows that contribute, else 0."""
    total = row["sum"]
    row_lin = row["lin"] + extra if "lin" in row else extra
    weight = counted * row_weights(total.log() + plan.shift, row_lin, join)
    return torch.where(total > 0, weight / total, 0.0)


def _nan(row_lse: Tensor) -> Tensor:
    """NaN where the statistics gave up, else 0: gradients must not look right then."""
    return torch.where(row_lse.isnan(), torch.nan, 0.0)
