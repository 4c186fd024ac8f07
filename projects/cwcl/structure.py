"""How much of one embedding space's structure another one has, on the same samples.

# N samples, D and R dims
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.matrices import as_matrix, exact_math

EQUAL = 1e-12  # cosines that differ by less are one value, up to rounding


def structure_spearman(x: Tensor, y: Tensor) -> float:
    """Spearman correlation of the cosines of all distinct pairs in two spaces.

    Equation: ``spearman({cos(x_i, x_j)}_{i<j}, {cos(y_i, y_j)}_{i<j})``.
    Source: Kriegeskorte et al. 2008, "Representational similarity analysis", with cosines.

    Args:
        x: (N, D), N >= 3.
        y: (N, R), row i is another view of sample i.

    Returns:
        In [-1, 1]; 0 where one of the spaces has equal cosines only (they spread by < 1e-12).

    Raises:
        ValueError: other row counts, or fewer than three samples.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.5]])
    >>> round(structure_spearman(x, 3 * x), 6)
    1.0
    """
    x, y = _samples(x, y, least=3)
    n = len(x)
    with exact_math(x.device):
        a, b = (F.normalize(z, dim=1) @ F.normalize(z, dim=1).T for z in (x, y))
    upper = x.new_ones(n, n).triu(1).bool()
    a, b = a[upper], b[upper]
    if any(float(z.max() - z.min()) < EQUAL for z in (a, b)):
        return 0.0
    return _correlation(_ranks(a), _ranks(b))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment; 1 for spaces that differ by a rotation and a scale.

    Equation: ``||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)`` of centred matrices.
    Source: Kornblith et al. 2019, section 3, arXiv 1905.00414.

    Args:
        x: (N, D), N >= 2.
        y: (N, R).

    Returns:
        In [0, 1]; 0 where one of the spaces is a single point, up to rounding.

    Raises:
        ValueError: other row counts, or fewer than two samples.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> round(linear_cka(x, 2 * x.flip(1)), 6)
    1.0
    """
    x, y = _samples(x, y, least=2)
    noise_x, noise_y = _centring_noise(x), _centring_noise(y)
    x, y = x - x.mean(0), y - y.mean(0)
    with exact_math(x.device):
        cross, own_x, own_y = (y.T @ x).square().sum(), (x.T @ x).norm(), (y.T @ y).norm()
    if own_x <= noise_x or own_y <= noise_y:
        return 0.0
    return float(cross) / float(own_x * own_y)


def _samples(x: Tensor, y: Tensor, least: int) -> tuple[Tensor, Tensor]:
    x, y = as_matrix(x, "x").double(), as_matrix(y, "y").double()
    if len(x) != len(y) or len(x) < least:
        raise ValueError(f"need at least {least} common samples, got {len(x)} and {len(y)}")
    return x, y


def _centring_noise(x: Tensor) -> Tensor:
    """What rounding leaves of ``||X^T X||_F`` where equal rows are centred."""
    rounding = torch.finfo(x.dtype).eps * max(x.shape)
    noise: Tensor = x.square().sum() * rounding**2
    return noise


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 0; equal values share their mean rank."""
    _, place, count = torch.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    mean: Tensor = (last - (count + 1) / 2)[place]
    return mean


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    bottom = float(a.norm() * b.norm())
    return float(a @ b) / bottom if bottom > 0 else 0.0
