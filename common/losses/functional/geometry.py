"""Squared distances and Gaussian kernels: alignment, uniformity, joint entropy.

# B batch, N rows, M columns, D dim

A squared distance is bilinear in two lengthened vectors,

    -||x - y||^2 / 2 = <[x, -||x||^2 / 2, 1], [y, 1, -||y||^2 / 2]>

so log-sums of Gaussian kernels run through the same kernels as every softmax loss and never store
an N x M matrix.
"""

import math
from typing import Unpack

import torch
from torch import Tensor

from ...distributed.collectives import log_sum_exp_over_ranks
from ...kernels.specs.weights import All, ExcludeSelf, Spec
from ..output import LossOutput, at_least_float32, check_pair, full_precision
from .kernel import (
    KernelOptions,
    count_rows,
    mean_loss,
    process_group,
    sum_over_ranks,
    sweep,
    whole_loss,
)


@full_precision
def pairwise_squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs, by one matrix product.

        d_ij = ||x_i||^2 + ||y_j||^2 - 2 <x_i, y_j>, not below 0

    Source: expansion of the square.

    Args:
        x: (N, D) floating point.
        y: (M, D).

    Returns:
        (N, M), at least float32.

    Raises:
        ValueError: not two matrices of one dimension; both shapes are printed.

    Distributed: local.

    Deviation: where rounding makes an entry negative it is 0 and has no gradient.

    >>> pairwise_squared_distance(torch.tensor([[3.0, 4.0]]), torch.zeros(2, 2))
    tensor([[25., 25.]])
    """
    check_pair(x, y, same_rows=False, names="x, y")
    x, y = at_least_float32(x), at_least_float32(y)
    squares = x.square().sum(-1)[:, None] + y.square().sum(-1)[None, :]
    return (squares - 2 * x @ y.T).clamp(min=0)


def gaussian_factors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Lengthened rows (N, D + 2), (M, D + 2) whose dot products are -||x_i - y_j||^2 / 2."""
    x, y = at_least_float32(x), at_least_float32(y)
    half_x, half_y = (-0.5 * z.square().sum(-1, keepdim=True) for z in (x, y))
    ones_x, ones_y = torch.ones_like(half_x), torch.ones_like(half_y)
    return torch.cat([x, half_x, ones_x], -1), torch.cat([y, ones_y, half_y], -1)


@full_precision
def gaussian_log_sum(
    x: Tensor,
    y: Tensor,
    scale: Tensor | float,
    spec: Spec | None = None,
    **kernel: Unpack[KernelOptions],
) -> Tensor:
    """Log-sum over columns of a Gaussian kernel.

        out_i = log sum_j exp(-scale * ||x_i - y_j||^2 / 2)

    Source: kernel density estimate, Parzen 1962.

    Args:
        x: (N, D), any length.
        y: (M, D).
        scale: > 0, one over the squared bandwidth.
        spec: which pairs count; None for all.
        **kernel: see `KernelOptions`; `unit_norm` is ignored.

    Returns:
        (N,); -inf for a row without pairs.

    Raises:
        ValueError: not two matrices of one dimension; both shapes are printed.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> gaussian_log_sum(torch.zeros(1, 2), torch.zeros(4, 2), 1.0).exp().round(decimals=3)
    tensor([4.])
    """
    check_pair(x, y, same_rows=False, names="x, y")
    left, right = gaussian_factors(x, y)
    options: KernelOptions = {**kernel, "unit_norm": False, "precision": "exact"}
    return sweep(left, right, scale, spec or All(), **options).row_lse


@full_precision
def alignment(x: Tensor, y: Tensor, tau: float = 0.5) -> Tensor:
    """Mean squared distance of positive pairs.

        A = 1 / (2 tau) * mean_i ||x_i - y_i||^2

    Source: Wang and Isola 2020, equation 2 (alpha = 2), arXiv 2005.10242.

    Args:
        x: (B, D), usually unit rows.
        y: (B, D), the partners.
        tau: > 0, squared bandwidth; 0.5 gives the plain mean.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: shapes differ; both are printed.

    Distributed: local (a mean over rows needs no other rank under gradient averaging).

    >>> float(alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])))
    2.0
    """
    check_pair(x, y, names="x, y")
    return (at_least_float32(x) - at_least_float32(y)).square().sum(-1).mean() / (2 * tau)


@full_precision
def uniformity(x: Tensor, tau: float = 0.5, **kernel: Unpack[KernelOptions]) -> Tensor:
    """Log of the mean Gaussian potential over pairs of different rows.

        U = log mean_{i<j} exp(-||x_i - x_j||^2 / (2 tau))

    Source: Wang and Isola 2020, equation 3 (t = 1 / (2 tau); t = 2 is tau = 0.25),
    arXiv 2005.10242.

    Args:
        x: (B, D), B >= 2; unit rows in the paper, any length here.
        tau: > 0, squared bandwidth.
        **kernel: see `KernelOptions`.

    Returns:
        Scalar <= 0, equal on all ranks; divided by their number if `Sharding` sums gradients.

    Raises:
        ValueError: fewer than two rows.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> float(uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), tau=1.0))
    -2.0
    """
    return log_mean_potential(_row_potentials(x, tau, kernel), x, kernel)


def _row_potentials(x: Tensor, tau: float, kernel: KernelOptions) -> Tensor:
    """(B,) log of the sum of potentials of each local row and the other rows of the batch."""
    check_pair(x, x, names="x, x")
    if x.shape[0] < 2 and not process_group(kernel)[0]:
        raise ValueError(f"uniformity needs pairs of rows, got one row: shape {tuple(x.shape)}")
    return gaussian_log_sum(x, x, 1 / tau, ExcludeSelf(), **kernel)


def log_mean_potential(rows: Tensor, x: Tensor, kernel: KernelOptions) -> Tensor:
    """This rank's part of the log of the mean over all pairs, from the log-sums of its rows."""
    sharded, group = process_group(kernel)
    total = rows.logsumexp(0)
    if sharded:
        shift = log_sum_exp_over_ranks(total.detach(), group)
        total = shift + sum_over_ranks((total - shift).exp(), kernel).log()
    count = count_rows(x.shape[0], rows, kernel)
    return whole_loss(total - (count * (count - 1)).log(), kernel)


@full_precision
def align_uniform(
    x: Tensor,
    y: Tensor,
    align_weight: float = 1.0,
    uniform_weight: float = 1.0,
    tau: float = 0.25,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Weighted sum of alignment and uniformity of two views.

        L = w_a * mean_i ||x_i - y_i||^2 + w_u * (U(x) + U(y)) / 2,   U as in `uniformity`

    Source: Wang and Isola 2020, "Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere", section 5, arXiv 2005.10242.

    Args:
        x: (B, D), L2-normalised.
        y: (B, D), L2-normalised; row i is the other view of x_i.
        align_weight: w_a, >= 0.
        uniform_weight: w_u, >= 0.
        tau: > 0, squared bandwidth of the potential; 0.25 is the paper's t = 2.
        **kernel: see `KernelOptions`.

    Returns:
        The loss. A value per sample takes the mean over that row's pairs inside the logarithm, so
        the mean of these values is at most the loss (Jensen). No hits.

    Raises:
        ValueError: shapes differ, or fewer than two rows.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # aligned; potential exp(-2 * 4)
    >>> align_uniform(x, x).loss
    tensor(-8.)
    """
    check_pair(x, y, names="x, y")
    x, y = at_least_float32(x), at_least_float32(y)
    distance = (x - y).square().sum(-1)
    rows = [_row_potentials(z, tau, kernel) for z in (x, y)]
    uniform = 0.5 * sum(log_mean_potential(r, z, kernel) for r, z in zip(rows, (x, y), strict=True))
    others = (count_rows(x.shape[0], distance, kernel) - 1).log()
    local_rows = 0.5 * (rows[0] + rows[1]) - others
    return LossOutput(
        align_weight * mean_loss(distance, kernel) + uniform_weight * uniform,
        align_weight * distance + uniform_weight * local_rows,
        None,
    )


@full_precision
def joint_entropy(common: Tensor, salient: Tensor, tau: float = 0.5) -> Tensor:
    """Minus the kernel estimate of the joint entropy of two codes of the same samples.

        J = mean_i log mean_j exp(-(||s_i - s_j||^2 + ||c_i - c_j||^2) / (2 tau))

    The mean over j includes j = i. Minimising J raises the joint entropy, which lowers the mutual
    information of the two codes while uniformity terms raise their marginals.

    Source: Louiset et al. 2024, "SepCLR: Separating common from salient patterns with contrastive
    learning", section 3.4, arXiv 2402.11928.

    Args:
        common: (B, D_c).
        salient: (B, D_s).
        tau: > 0, squared bandwidth of both.

    Returns:
        Scalar <= 0.

    Raises:
        ValueError: different numbers of rows; both shapes are printed.

    Distributed: local.

    >>> float(joint_entropy(torch.zeros(3, 1), torch.zeros(3, 2)).abs() < 1e-6)
    1.0
    """
    if common.shape[0] != salient.shape[0]:
        raise ValueError(
            "common and salient codes need the same rows; they have shapes "
            f"{tuple(common.shape)} and {tuple(salient.shape)}"
        )
    # A product of Gaussian kernels is the kernel of the concatenated codes.
    both = torch.cat([at_least_float32(common), at_least_float32(salient)], -1)
    return gaussian_log_sum(both, both, 1 / tau).mean() - math.log(both.shape[0])
