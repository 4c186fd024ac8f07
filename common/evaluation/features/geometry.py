"""Geometry of a set of embeddings: alignment, uniformity, effective dimensions, anisotropy.

Legend: N embeddings, D dimension; sigma singular values, lambda covariance eigenvalues.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_matrix, blocks, exact_math


def alignment(x: Tensor, y: Tensor, *, alpha: float = 2.0) -> float:
    """Mean distance of positive pairs on the unit sphere; 0 is perfect, 2**alpha the maximum.

    Equation: ``E ||unit(x) - unit(y)||^alpha``.
    Source: Wang & Isola 2020, eq. 1 (L_align), arXiv 2005.10242.

    Args:
        x: (N, D).
        y: (N, D), row i is the positive of ``x[i]``.
        alpha: > 0.

    Raises:
        ValueError: shapes differ or ``alpha <= 0``.

    >>> alignment(torch.eye(2), torch.eye(2).flip(0))
    2.0
    """
    x, y = as_matrix(x, "x"), as_matrix(y, "y")
    if x.shape != y.shape or alpha <= 0:
        raise ValueError(
            f"alignment needs equal shapes and alpha > 0, got {tuple(x.shape)}, "
            f"{tuple(y.shape)}, {alpha}"
        )
    difference = F.normalize(x.double(), dim=1) - F.normalize(y.double(), dim=1)
    return float((difference.square().sum(dim=1) ** (alpha / 2)).mean())


def uniformity(x: Tensor, *, t: float = 2.0, chunk_size: int = 4096) -> float:
    """Log of the mean Gaussian potential of all distinct pairs on the unit sphere.

    0 means that all embeddings coincide; smaller is more uniform, never below ``-4 t``.

    Equation: ``log E_{i<j} exp(-t ||unit(x_i) - unit(x_j)||^2)``.
    Source: Wang & Isola 2020, eq. 2 (L_uniform), arXiv 2005.10242.

    Args:
        x: (N, D), N >= 2.
        t: > 0.
        chunk_size: rows per block of similarities.

    Raises:
        ValueError: fewer than two rows or ``t <= 0``.

    >>> uniformity(torch.eye(2))
    -4.0
    """
    x = F.normalize(as_matrix(x, "x").double(), dim=1)
    if len(x) < 2 or t <= 0:
        raise ValueError(f"uniformity needs two embeddings and t > 0, got {len(x)} and {t}")
    parts = []
    with exact_math(x.device):
        norms = x.square().sum(dim=1)
        for rows in blocks(len(x), chunk_size):
            for columns in blocks(rows.stop, chunk_size):  # nothing beyond the diagonal
                squared = norms[rows, None] + norms[columns] - 2 * x[rows] @ x[columns].T
                i = torch.arange(rows.start, rows.stop, device=x.device)[:, None]
                j = torch.arange(columns.start, columns.stop, device=x.device)
                potential = (-t * squared.clamp_min(0)).masked_fill(j >= i, -math.inf)
                parts.append(potential.flatten().logsumexp(dim=0))
    num_pairs = len(x) * (len(x) - 1) / 2
    return float(torch.stack(parts).logsumexp(dim=0)) - math.log(num_pairs)


def mean_cosine(x: Tensor) -> float:
    """Mean cosine of all distinct pairs (anisotropy); 1 means one direction only.

    Equation: ``(||sum_i u_i||^2 - sum_i ||u_i||^2) / (N (N - 1))`` with ``u = unit(x)``.
    Source: Ethayarajh 2019, section 4.1, arXiv 1909.00512 (all pairs instead of a sample).

    Args:
        x: (N, D), N >= 2.

    Raises:
        ValueError: fewer than two rows.

    >>> mean_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))
    -1.0
    """
    x = F.normalize(as_matrix(x, "x").double(), dim=1)
    if len(x) < 2:
        raise ValueError("the mean cosine needs two embeddings, got 1")
    return float((x.sum(dim=0).square().sum() - x.square().sum()) / (len(x) * (len(x) - 1)))


def effective_rank(x: Tensor, *, center: bool = True) -> float:
    """Exponential of the entropy of the normalised singular values; 1 <= value <= min(N, D).

    Equation: ``exp(-sum_k p_k ln p_k)``, ``p_k = sigma_k / sum_j sigma_j``.
    Source: Roy & Vetterli 2007, "The effective rank", definition 1.

    Args:
        x: (N, D).
        center: subtract the mean embedding first, so that a constant offset is not a dimension.

    Returns:
        The effective rank, 0.0 when all rows coincide (or, uncentred, are zero).

    >>> round(effective_rank(torch.eye(3), center=False), 6)
    3.0
    """
    sigma = _squared_singular_values(x, center).sqrt()
    return _exp_entropy(sigma / sigma.sum()) if len(sigma) else 0.0


def rankme(x: Tensor, *, epsilon: float = 1e-7) -> float:
    """Effective rank of the uncentred embeddings with a small constant, as RankMe defines it.

    Equation: ``exp(-sum_k p_k ln p_k)``, ``p_k = sigma_k / sum_j sigma_j + epsilon``, over all
    ``min(N, D)`` singular values.
    Source: Garrido et al. 2023, "RankMe", eq. 1, arXiv 2210.02885.

    Args:
        x: (N, D); compare values only at equal N.
        epsilon: > 0.

    Returns:
        RankMe, 0.0 when all rows are zero.

    >>> round(rankme(torch.eye(3)), 4)
    3.0
    """
    sigma = _squared_singular_values(x, center=False).sqrt()
    if not len(sigma):
        return 0.0
    share = sigma.new_zeros(min(x.shape))
    share[: len(sigma)] = sigma / sigma.sum()
    return _exp_entropy(share + epsilon)


def participation_ratio(x: Tensor, *, center: bool = True) -> float:
    """Number of dimensions that share the variance; 1 <= value <= min(N, D).

    Equation: ``(sum_k lambda_k)^2 / sum_k lambda_k^2``.
    Source: Gao et al. 2017, "A theory of multineuronal dimensionality", bioRxiv 214262.

    Args:
        x: (N, D).
        center: eigenvalues of the covariance; ``False`` takes those of the second moments.

    Returns:
        The ratio, 0.0 when all rows coincide (or, uncentred, are zero).

    >>> round(participation_ratio(torch.eye(3), center=False), 6)
    3.0
    """
    eigenvalues = _squared_singular_values(x, center)
    if not len(eigenvalues):
        return 0.0
    return float(eigenvalues.sum().square() / eigenvalues.square().sum())


def geometry_metrics(x: Tensor) -> dict[str, float]:
    """All measures of this file that one set of embeddings has.

    Args:
        x: (N, D), N >= 2.

    Raises:
        ValueError: as the single measures.
    """
    return {
        "uniformity": uniformity(x),
        "mean_cosine": mean_cosine(x),
        "effective_rank": effective_rank(x),
        "rankme": rankme(x),
        "participation_ratio": participation_ratio(x),
    }


def _squared_singular_values(x: Tensor, center: bool) -> Tensor:
    """Squared singular values above rounding noise, (R,) float64, R <= min(N, D)."""
    x = as_matrix(x, "x").double()
    scale = x.square().sum()
    with exact_math(x.device):
        if center:
            x = x - x.mean(dim=0)
        gram = x.T @ x if x.shape[0] >= x.shape[1] else x @ x.T
        values: Tensor = torch.linalg.eigvalsh(gram)
    # Centring equal rows leaves rounding noise; it is measured against the uncentred size.
    noise = scale * torch.finfo(torch.float64).eps * max(x.shape)
    return values[values > noise]


def _exp_entropy(p: Tensor) -> float:
    return float((-(p * p.log()).sum()).exp())
