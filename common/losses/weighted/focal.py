"""A focal sigmoid loss on all pairs of two modalities.

# N rows of this rank, M columns, B pairs of this rank, D dim
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...distributed.differentiable import all_gather_with_grad
from ...distributed.process import default_group, world_size
from ..functional.kernel import KernelOptions, first_row, row_counts
from ..output import full_precision, unit


@full_precision
def focal_contrastive(
    logits: Tensor, alpha: float = 0.5, gamma: float = 1.0, first: int = 0
) -> Tensor:
    """Focal sigmoid loss, 2 sum_ij [a y + (1 - a)(1 - y)] m BCE, m = e^(g (-y l - softplus(-l))).

    Source: Kim et al. 2023, "RO-ViT", arXiv 2305.07011, released code.

    Args:
        logits: (N, M) scaled similarities of local images with all texts.
        alpha: weight of positives, in [0, 1].
        gamma: exponent of the modulator, >= 0.
        first: column of the first row's text.

    Returns:
        Sum over pairs, 0-dim.

    Distributed: local; `paired_focal` gathers.

    >>> focal_contrastive(torch.zeros(1, 1), 0.5, 0.0).round(decimals=4)  # log 2
    tensor(0.6931)
    """
    y = torch.zeros_like(logits)
    rows = torch.arange(len(logits), device=logits.device)
    y[rows, first + rows] = 1.0
    bce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    modulator = (gamma * (-y * logits - F.softplus(-logits, threshold=50.0))).exp()
    return 2 * ((alpha * y + (1 - alpha) * (1 - y)) * modulator * bce).sum()


@full_precision
def paired_focal(
    image: Tensor, text: Tensor, scale: Tensor, alpha: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """`focal_contrastive` of local images with all ranks' texts, and hits of the own text.

    Args:
        image: (B, D).
        text: (B, D), row i belongs to image i.
        scale: multiplier of the cosines.
        alpha: see `focal_contrastive`.
        gamma: see `focal_contrastive`.

    Distributed: gathers negatives; multiplies the sum by the number of ranks, since DDP averages.
        Ranks may have different numbers of pairs.
    """
    group = default_group()
    kernel: KernelOptions = {"group": group}
    words = all_gather_with_grad(unit(text), group, row_counts(image, kernel))
    logits = scale * unit(image) @ words.T
    first = first_row(image, kernel)
    columns = first + torch.arange(len(image), device=image.device)
    loss = focal_contrastive(logits, alpha, gamma, first) * world_size(group)
    return loss, logits.argmax(1) == columns
