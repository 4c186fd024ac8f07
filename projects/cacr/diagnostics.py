"""What CACR's weights say about a batch: their entropy, and how they follow the distance.

# V views, K positives, N samples, D dim
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.text.sts import spearman
from common.losses.functional.geometry import pairwise_squared_distance

DIAGNOSED_QUERIES = 64  # rows of a batch whose weights are looked at
RANKED_PAIRS = 2**18  # at most so many, evenly spaced, enter a rank correlation


def attraction_weights(query: Tensor, positives: Tensor, tau: float) -> Tensor:
    """Share of each positive in the attraction: far ones weigh more.

        pi_k|x = exp(tau * ||q - p_k||^2) / sum_k' exp(tau * ||q - p_k'||^2)

    Source: Zheng et al. 2023, equation 5, arXiv 2105.03746.

    Args:
        query: (N, D), L2-normalised.
        positives: (K, N, D), L2-normalised: other views of the same samples.
        tau: > 0, t+.

    Returns:
        (N, K), rows sum to 1.

    >>> views = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    >>> attraction_weights(views[0], views, math.log(3) / 4)
    tensor([[0.2500, 0.7500]])
    """
    return (tau * positive_distances(query, positives)).softmax(1)  # Eq. 5


def repulsion_weights(
    query: Tensor, negatives: Tensor, tau: float, in_batch: bool = True
) -> Tensor:
    """Share of each negative in the repulsion: near ones weigh more, its own sample has none.

        pi_j|i = exp(-tau * ||q_i - n_j||^2) / sum_{j' != i} exp(-tau * ||q_i - n_j'||^2)

    Source: Zheng et al. 2023, equation 6, arXiv 2105.03746.

    Args:
        query: (N, D), L2-normalised.
        negatives: (M, D), L2-normalised.
        tau: > 0, t-.
        in_batch: M >= N and row i belongs to the sample of query i, so that it is left out.

    Returns:
        (N, M), rows sum to 1, zero where j = i.
    """
    logits = -tau * pairwise_squared_distance(query, negatives)
    return logits.masked_fill(~_others(logits, in_batch), -torch.inf).softmax(1)  # Eq. 6


def _others(pairs: Tensor, in_batch: bool) -> Tensor:
    """Which pairs (N, M) are of two samples."""
    every = torch.ones_like(pairs, dtype=torch.bool)
    return every.fill_diagonal_(not in_batch)


def positive_distances(query: Tensor, positives: Tensor) -> Tensor:
    """Squared distances of a query (N, D) and its positives (K, N, D), (N, K)."""
    return (query - positives).square().sum(-1).T


@torch.no_grad()
def weight_diagnostics(
    query: Tensor,
    positives: Tensor,
    negatives: Tensor | Sequence[Tensor],
    tau_pos: float,
    tau_neg: float,
    *,
    anchors: Tensor | None = None,
    in_batch: bool = True,
) -> dict[str, float]:
    """Contrast within the positives and within the negatives of some queries.

    The weights are CACR's, whatever the loss in use weighs by, so that all losses compare.

    Args:
        query: (N, D) raw embeddings.
        positives: (K, N, D) raw, other views.
        negatives: (M, D) raw, or parts of them.
        tau_pos: t+.
        tau_neg: t-.
        anchors: (N, D) raw, what is repelled from the negatives; None: the queries.
        in_batch: M >= N and row i of the negatives belongs to the sample of query i.

    Returns:
        Mean entropy of the weights in nats (``positive_entropy``, at most log K;
        ``negative_entropy``, at most the log of the number of negatives), and over the pairs the
        rank correlation of weight and distance (``positive_rank_correlation`` is 0 if K = 1). NaN
        for embeddings that are not finite, so that the training itself says where it diverged.
    """
    pushing = negatives if isinstance(negatives, Tensor) else torch.cat(list(negatives))
    query, positives, pushing, anchors = (
        F.normalize(x.float(), dim=-1)
        for x in (query, positives, pushing, query if anchors is None else anchors)
    )
    pi = attraction_weights(query, positives, tau_pos)
    pushed = repulsion_weights(anchors, pushing, tau_neg, in_batch)
    others = _others(pushed, in_batch)
    near = pairwise_squared_distance(anchors, pushing)[others]
    far = positive_distances(query, positives)
    step = max(1, near.numel() // RANKED_PAIRS)
    return {
        "positive_entropy": float(torch.special.entr(pi).sum(1).mean()),
        "negative_entropy": float(torch.special.entr(pushed).sum(1).mean()),
        "positive_rank_correlation": _rank_correlation(pi.flatten(), far.flatten()),
        "negative_rank_correlation": _rank_correlation(pushed[others][::step], near[::step]),
    }


def _rank_correlation(weight: Tensor, distance: Tensor) -> float:
    """`spearman`, or NaN where a value is not finite."""
    weight, distance = weight.cpu(), distance.cpu()
    return spearman(weight, distance) if bool((weight + distance).isfinite().all()) else math.nan


def batch_diagnostics(
    query: Tensor,
    positives: Tensor,
    negatives: Tensor | Sequence[Tensor],
    tau_pos: float,
    tau_neg: float,
    *,
    anchors: Tensor | None = None,
    in_batch: bool = True,
) -> dict[str, Tensor]:
    """`weight_diagnostics` of the first queries of this rank, to be logged; float32."""
    few = slice(0, DIAGNOSED_QUERIES)
    diagnostics = weight_diagnostics(
        query[few],
        positives[:, few],
        negatives,
        tau_pos,
        tau_neg,
        anchors=None if anchors is None else anchors[few],
        in_batch=in_batch,
    )
    # Not in the dtype of the embeddings: half precision has three digits.
    return {name: torch.tensor(value, device=query.device) for name, value in diagnostics.items()}
