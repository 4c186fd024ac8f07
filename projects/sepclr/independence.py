"""Penalties on the dependence of two codes (HSIC, correlation, vCLUB), and Gaussian codes.

# B batch, D dim of the first code, E dim of the second
"""

import math

from torch import Tensor

from common.losses.functional.geometry import pairwise_squared_distance
from common.losses.output import at_least_float32, full_precision

_EPS = 1e-8


def _check_rows(x: Tensor, y: Tensor) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(
            "expected two matrices of the same B >= 2 rows; they have shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )


@full_precision
def hsic(x: Tensor, y: Tensor, tau: float = 0.5) -> Tensor:
    """Squared MMD between the joint distribution and the product of its marginals.

        HSIC = mean_ij K_ij L_ij + mean K mean L - 2 mean_i (mean_j K_ij mean_j L_ij)

    with K_ij = exp(-||x_i - x_j||^2 / (2 tau)) and L likewise of y; the mean embedding of a pair
    uses the product kernel.

    Source: Gretton et al. 2005, "Measuring statistical dependence with Hilbert-Schmidt norms",
    equation 9 (biased estimate), doi 10.1007/11564089_7; as an MMD: Gretton et al. 2012, JMLR 13.

    Args:
        x: (B, D), B >= 2.
        y: (B, E), codes of the same samples.
        tau: > 0, squared bandwidth of both kernels.

    Returns:
        Scalar >= 0 up to rounding; 0 for a constant code.

    Raises:
        ValueError: different numbers of rows, or fewer than two; both shapes are printed.

    Distributed: local.

    >>> import torch
    >>> x = torch.tensor([[0.0], [9.0]])
    >>> round(float(hsic(x, x)), 4), float(hsic(x, torch.zeros(2, 1)))
    (0.25, 0.0)
    """
    _check_rows(x, y)
    k, m = (pairwise_squared_distance(z, z).mul(-0.5 / tau).exp() for z in (x, y))
    return (k * m).mean() + k.mean() * m.mean() - 2 * (k.mean(1) * m.mean(1)).mean()


@full_precision
def squared_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared Pearson correlation between the dimensions of two codes.

        R = 1 / (D E) * sum_de corr(x_d, y_e)^2

    Source: the off-diagonal part of the cross-correlation matrix, Zbontar et al. 2021, equation 1,
    arXiv 2103.03230.

    Args:
        x: (B, D), B >= 2.
        y: (B, E), codes of the same samples; a constant dimension correlates with nothing.

    Returns:
        Scalar in [0, 1].

    Raises:
        ValueError: different numbers of rows, or fewer than two; both shapes are printed.

    Distributed: local.

    >>> import torch
    >>> x = torch.tensor([[1.0], [2.0], [3.0]])
    >>> round(float(squared_correlation(x, -2 * x)), 4), float(squared_correlation(x, 0 * x))
    (1.0, 0.0)
    """
    _check_rows(x, y)
    x, y = (at_least_float32(z) - at_least_float32(z).mean(0) for z in (x, y))
    covariance = x.T @ y / len(x)
    scale = x.square().mean(0)[:, None] * y.square().mean(0)[None, :]
    return (covariance.square() / (scale + _EPS)).mean()


@full_precision
def gaussian_nll(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood of a diagonal Gaussian.

        NLL = 1/B sum_i sum_e [(y_ie - mu_ie)^2 / var_ie + log var_ie + log 2 pi] / 2

    Source: Cheng et al. 2020, algorithm 1 (the variational network's objective), arXiv 2006.12013.

    Args:
        mean: (B, E).
        log_variance: (B, E).
        y: (B, E).

    Returns:
        Scalar.

    Distributed: local.

    >>> import torch
    >>> round(float(gaussian_nll(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))), 4)
    0.9189
    """
    mean, log_variance, y = (at_least_float32(z) for z in (mean, log_variance, y))
    each = (y - mean).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)
    return 0.5 * each.sum(1).mean()


@full_precision
def club_bound(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    """Variational contrastive log-ratio upper bound of the mutual information (vCLUB).

        I(x; y) <= mean_i [log q(y_i | x_i) - mean_j log q(y_j | x_i)]

    for a Gaussian q, with j over all samples.

    Source: Cheng et al. 2020, equation 14, arXiv 2006.12013.

    Args:
        mean: (B, E) of q(y | x_i).
        log_variance: (B, E) of q(y | x_i).
        y: (B, E).

    Returns:
        Scalar; negative where q does not fit.

    Distributed: local.

    >>> import torch
    >>> y = torch.tensor([[-1.0], [1.0]])
    >>> float(club_bound(y, torch.zeros(2, 1), y))  # (mean of 0 and 4) / 2
    1.0
    """
    mean, log_variance, y = (at_least_float32(z) for z in (mean, log_variance, y))
    matched = (y - mean).square()
    # mean_j (y_j - mu_i)^2 without the matrix of pairs
    others = y.square().mean(0) - 2 * mean * y.mean(0) + mean.square()
    return 0.5 * ((others - matched) * (-log_variance).exp()).sum(1).mean()


@full_precision
def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of diagonal Gaussians from the standard normal distribution (a VAE's rate).

        KL_i = 1/2 sum_d (mu_id^2 + sigma_id^2 - 1 - log sigma_id^2)

    Source: Kingma and Welling 2014, appendix B, arXiv 1312.6114.

    Args:
        mean: (B, D).
        log_variance: (B, D).

    Returns:
        (B,).

    Distributed: local.

    >>> import torch
    >>> gaussian_kl(torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1))
    tensor([0., 2.])
    """
    mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
