"""Sigmoid loss on all pairs.

# N images and texts, D dim
"""

from typing import Unpack

from torch import Tensor

from ...kernels.row_loss import softplus_rows
from ...kernels.specs.weights import Diagonal
from ..output import LossOutput, check_pair, full_precision
from . import equations
from .kernel import KernelOptions, as_scale, mean_loss, runs_plain


@full_precision
def siglip(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    bias: Tensor | float = -10.0,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Classify every image-text pair independently as matching or not.

        l_i = sum_j softplus(-y_ij * (scale * <image_i, text_j> + bias)),  y = 1 on pairs, else -1

    Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation 1,
    arXiv 2303.15343.

    Args:
        image: (N, D), L2-normalised.
        text: (N, D), L2-normalised; row i belongs to image i.
        scale: > 0, multiplies the similarities; the paper starts at 10.
        bias: added to every logit; the paper starts at -10.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over images of the sum over texts; hits: an image's own text is the most similar one.

    Raises:
        ValueError: shapes that do not fit.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> import torch
    >>> pair = torch.eye(1)
    >>> siglip(pair, pair, scale=2.0, bias=-2.0).loss.round(decimals=4)  # log 2
    tensor(0.6931)
    """
    check_pair(image, text, names="image, text")
    scale = as_scale(scale)
    if runs_plain(image, text, "softplus", kernel):
        return equations.siglip(image, text, scale, bias)
    rows = softplus_rows(image, text, scale, Diagonal(), bias=bias, top1=True, **kernel)
    if rows.total is None:
        return LossOutput(mean_loss(rows.per_row, kernel), rows.per_row, rows.top1)
    return LossOutput(rows.total / rows.num_rows, rows.per_row, rows.top1)
