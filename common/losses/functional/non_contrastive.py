"""Losses without negatives between two codes of a sample: SimSiam and BYOL, Barlow Twins, SwAV.

# n samples of this rank, B of all ranks, D dim, K prototypes
"""

import math
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from ...distributed.collectives import log_sum_exp_over_ranks
from ..output import at_least_float32, check_pair, full_precision
from .kernel import (
    KernelOptions,
    count_rows,
    mean_loss,
    process_group,
    sum_over_ranks,
    whole_loss,
)


@full_precision
def negative_cosine(prediction: Tensor, target: Tensor, **kernel: Unpack[KernelOptions]) -> Tensor:
    """Squared distance of unit vectors; the target side has no gradient.

        L = mean_i [2 - 2 cos(p_i, stop_gradient(t_i))]

    Source: Grill et al. 2020 (BYOL), equation 2, arXiv 2006.07733; up to the constants Chen and He
    2021 (SimSiam), equation 1, arXiv 2011.10566.

    Args:
        prediction: (n, D), output of the predictor.
        target: (n, D), output of the other side's projector.
        **kernel: only `group` is read.

    Returns:
        Scalar in [0, 4].

    Raises:
        ValueError: different shapes.

    Distributed: local, its mean over ranks is the mean over all rows.

    >>> float(negative_cosine(torch.eye(2), 3 * torch.eye(2).flip(0)))
    2.0
    """
    check_pair(prediction, target, names="prediction, target")
    prediction, target = at_least_float32(prediction), at_least_float32(target)
    cosine = F.cosine_similarity(prediction, target.detach(), dim=1)
    return mean_loss(2 - 2 * cosine, kernel)


@full_precision
def barlow_twins(
    code_1: Tensor,
    code_2: Tensor,
    *,
    off_diagonal: float = 5e-3,
    **kernel: Unpack[KernelOptions],
) -> Tensor:
    """Pull the cross-correlation matrix of two codes to the identity.

        C = 1/B sum_i x_i y_i^T
        L = sum_d (C_dd - 1)^2 + off_diagonal * sum_{d != e} C_de^2

    Source: Zbontar et al. 2021, equations 1 and 2, arXiv 2103.03230.

    Args:
        code_1: (n, D), standardised along the batch (output of a batch norm).
        code_2: (n, D), of the same samples.
        off_diagonal: lambda >= 0.
        **kernel: only `group` is read.

    Returns:
        Scalar, equal on all ranks; divided by their number if `Sharding` sums gradients.

    Raises:
        ValueError: different shapes.

    Distributed: reduces statistics if a `group` is given, else local.

    >>> x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # both dimensions are the same
    >>> float(barlow_twins(x, x, off_diagonal=0.5))  # 0 + 0.5 (1 + 1)
    1.0
    """
    check_pair(code_1, code_2, names="code_1, code_2")
    code_1, code_2 = at_least_float32(code_1), at_least_float32(code_2)  # D^2 terms overflow fp16
    rows = count_rows(code_1.shape[0], code_1, kernel)
    correlation = sum_over_ranks(code_1.T @ code_2, kernel) / rows  # Eq. 2
    squared = correlation.square()
    diagonal = (correlation.diagonal() - 1).square().sum()
    loss = diagonal + off_diagonal * (squared.sum() - squared.diagonal().sum())  # Eq. 1
    return whole_loss(loss, kernel)


@torch.no_grad()
@full_precision
def sinkhorn(
    scores: Tensor,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    **kernel: Unpack[KernelOptions],
) -> Tensor:
    """Soft assignment of samples to prototypes with nearly equal mass on every prototype.

        Q = exp(scores / epsilon), of sum 1
        repeat: every prototype's column to sum 1/K, then every sample's row to sum 1/B
        return B Q

    The last step normalises rows: every assignment sums to 1, and the prototypes' masses are only
    approximately equal. The computation is in logarithms.

    Source: Caron et al. 2020 (SwAV), section 3.1 and appendix A, arXiv 2006.09882.

    Args:
        scores: (n, K) similarities of samples and prototypes.
        epsilon: > 0, temperature.
        iterations: >= 1.
        **kernel: only `group` is read; normalises over the samples of all ranks.

    Returns:
        (n, K) >= 0, rows of sum 1, without gradient.

    Raises:
        ValueError: an option out of its range.

    Distributed: reduces statistics if a `group` is given, else local.

    >>> sinkhorn(torch.eye(2), epsilon=1.0).sum(1)
    tensor([1., 1.])
    """
    if epsilon <= 0 or iterations < 1:
        raise ValueError(f"need epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}")
    sharded, group = process_group(kernel)
    log_q = at_least_float32(scores) / epsilon
    log_k = math.log(scores.shape[1])
    for _ in range(iterations):  # the sum of Q and its B cancel in the first step
        mass = log_q.logsumexp(0)
        mass = log_sum_exp_over_ranks(mass, group) if sharded else mass
        log_q = log_q - mass - log_k
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()


@full_precision
def swapped_prediction(
    assignment: Tensor, scores: Tensor, scale: Tensor | float, **kernel: Unpack[KernelOptions]
) -> Tensor:
    """Cross entropy between one code's scores and the assignment of another code.

        L = - mean_i sum_k q_ik log softmax_k(scale * scores_ik)

    Source: Caron et al. 2020 (SwAV), equation 2, arXiv 2006.09882.

    Args:
        assignment: (n, K), rows of sum 1; gets no gradient.
        scores: (n, K) similarities of the predicting code.
        scale: > 0, 1 / temperature.
        **kernel: only `group` is read.

    Returns:
        Scalar.

    Raises:
        ValueError: different shapes.

    Distributed: local, its mean over ranks is the mean over all rows.

    >>> q = torch.tensor([[0.5, 0.5]])
    >>> swapped_prediction(q, torch.zeros(1, 2), scale=10.0).exp().round(decimals=4)
    tensor(2.)
    """
    check_pair(assignment, scores, names="assignment, scores")
    log_probability = F.log_softmax(scale * at_least_float32(scores), dim=1)
    return mean_loss(-(assignment.detach() * log_probability).sum(1), kernel)
