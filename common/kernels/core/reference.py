"""Dense reference: the equations of docs/kernels.md on the whole N x M matrix.

Slow in memory, obvious, differentiable by autograd (twice if needed), exact in float64. It is the
"dense" back end for small problems and what tests and benchmarks compare with.
"""

# Shape suffixes: N queries, M keys.

import torch
import torch.nn.functional as F
from torch import Tensor

from .problem import Problem, RawStats, SoftplusSums


def forward(problem: Problem) -> RawStats:
    """All statistics of the problem, differentiable in q, k, scale and row_scale.

    row_lse_i = log sum_{j in A(i)} exp(s_ij + beta_ij), col_lse_j likewise over B(j),
    row_lin_i = sum_j omega_ij s_ij, row_mom_i = sum_{j in A(i)} pi_ij s_ij with pi the row softmax.
    """
    spec, tile = problem.spec, problem.whole()
    s_NM = logits(problem)
    beta = spec.beta(tile)
    x_NM = s_NM if beta is None else s_NM + beta.to(s_NM.dtype)
    row_x = _masked(x_NM, spec.mask(tile, "rows"))
    row_lse = _lse(row_x, 1)
    empty = s_NM.new_empty(0)
    col_lse, row_mom, best, hit = empty, empty, empty, empty
    if problem.columns:
        col_lse = _lse(_masked(x_NM, spec.mask(tile, "columns")), 0)
    omega = spec.omega(tile, s_NM.dtype)
    row_lin = s_NM.new_zeros(problem.num_rows) if omega is None else (s_NM * omega).sum(1)
    if problem.moment:
        safe = torch.where(row_lse.isneginf(), 0, row_lse)
        row_mom = ((row_x - safe[:, None]).exp() * s_NM).sum(1)
    if problem.top1:
        best, has_positive = _top1(problem, s_NM.detach())
        hit = ((has_positive >= best) & ~has_positive.isneginf()).to(s_NM.dtype)
    return RawStats(row_lse, col_lse, row_lin, row_mom, best, hit, empty, empty)


def softplus(problem: Problem, bias: Tensor, offset: Tensor | None) -> SoftplusSums:
    """Row sums (N,) of the softplus reducer, differentiable in all inputs.

    Sum over A(i) of log(1 + exp(y_ij (s_ij + bias + beta_ij) + o_i)), y = -1 on positives, else 1.
    """
    spec, tile = problem.spec, problem.whole()
    s_NM = logits(problem)
    x_NM = s_NM + bias.to(problem.dtype)
    beta, positive, mask = spec.beta(tile), spec.positive(tile), spec.mask(tile, "rows")
    if beta is not None:
        x_NM = x_NM + beta.to(x_NM.dtype)
    if positive is not None:
        x_NM = torch.where(positive, -x_NM, x_NM)
    if offset is not None:
        x_NM = x_NM + offset.to(x_NM.dtype)[:, None]
    out_NM = F.softplus(x_NM, threshold=50.0)
    top = _top1(problem, s_NM.detach()) if problem.top1 else 2 * (s_NM.new_empty(0),)
    return SoftplusSums((out_NM if mask is None else out_NM * mask).sum(1), *top)


def logits(problem: Problem) -> Tensor:
    """Scaled inner products s_ij = scale * row_scale_i * <q_i, k_j>, (N, M)."""
    q, k = problem.q.to(problem.dtype), problem.k.to(problem.dtype)
    return (q * problem.factor) @ k.T


def _masked(x_NM: Tensor, mask: Tensor | None) -> Tensor:
    return x_NM if mask is None else x_NM.masked_fill(~mask, -torch.inf)


def _lse(x_NM: Tensor, dim: int) -> Tensor:
    """Log-sum-exp whose gradient is 0, not NaN, where everything is masked."""
    top = x_NM.detach().amax(dim, keepdim=True)
    dead = top.isneginf()
    total = (x_NM - torch.where(dead, 0, top)).exp().sum(dim, keepdim=True)
    log = torch.where(dead, 1.0, total).log() + torch.where(dead, 0, top)
    return torch.where(dead, -torch.inf, log).squeeze(dim)


def _top1(problem: Problem, s_NM: Tensor) -> tuple[Tensor, Tensor]:
    """Largest logit among counted pairs and positives, and among positives (-inf: none)."""
    spec, tile = problem.spec, problem.whole()
    mask, positive = spec.mask(tile, "rows"), spec.positive(tile)
    if mask is not None and positive is not None:
        mask = mask | positive
    best = _masked(s_NM, mask).amax(1)
    if positive is None:
        return best, torch.full_like(best, -torch.inf)
    return best, _masked(s_NM, positive).amax(1)
