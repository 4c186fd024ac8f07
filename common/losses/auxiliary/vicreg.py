"""The three terms of VICReg on embeddings of two modalities, to log or to add to a loss.

# B images, K texts each, image-major
"""

import torch
from torch import Tensor

from ..output import at_least_float32, full_precision


@full_precision
def vicreg_terms(image: Tensor, text: Tensor, num_texts: int = 1) -> dict[str, Tensor]:
    """Invariance, variance and covariance.

        invariance = mean (v_i - t_ik)^2 over all entries
        variance   = sum over both sides of mean_d max(0, 1 - sqrt(Var_d + 1e-4))
        covariance = sum over both sides of 1/D * sum of the squared off-diagonal covariances

    Source: Bardes et al. 2022, equations 1 to 5, arXiv 2105.04906.

    Args:
        image: (B, D), B > 1.
        text: (B * K, D), texts i*K ... i*K + K - 1 belong to image i.
        num_texts: K.

    Raises:
        ValueError: a single image, which has no variance.

    Distributed: local.

    >>> x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> {k: round(float(v), 4) for k, v in vicreg_terms(x, x).items()}
    {'invariance': 0.0, 'variance': 0.0, 'covariance': 8.0}
    """
    image, text = at_least_float32(image), at_least_float32(text)
    if len(image) < 2:
        raise ValueError(f"one image has no variance: image has shape {tuple(image.shape)}")
    difference = image.repeat_interleave(num_texts, 0) - text
    sides = (image, text)
    variance = [torch.relu(1 - (x.var(0) + 1e-4).sqrt()).mean() for x in sides]
    return {
        "invariance": difference.square().mean(),
        "variance": variance[0] + variance[1],
        "covariance": _off_diagonal(image) + _off_diagonal(text),
    }


def _off_diagonal(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    covariance = centred.T @ centred / (len(x) - 1)
    squares = covariance.square()
    return (squares.sum() - squares.diagonal().sum()) / x.shape[1]
