"""Contrastive attraction and repulsion against momentum keys and a queue.

# V views, B samples, Q rows of the queue, D dim
"""

from typing import Literal, Unpack

import torch
from torch import Tensor

from ...kernels.specs.weights import All, ExcludeSelf, Spec
from ..output import at_least_float32, full_precision
from .cacr import (
    WEIGHTINGS,
    CacrTerms,
    WeightedCost,
    _check_views,
    _uniform_repulsion,
)
from .geometry import gaussian_factors
from .kernel import (
    KernelOptions,
    Stats,
    count_rows,
    local,
    process_group,
    sweep,
)


@full_precision
def cacr_queue(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    tau_positive: float = 1.0,
    tau_negative: float = 2.0,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    in_batch: bool = True,
    reuse_first_view: bool = False,
    weighting: Literal["full", "without_w1", "without_w2", "none"] = "full",
    **kernel: Unpack[KernelOptions],
) -> CacrTerms:
    """Attraction to the keys of a sample's other views, repulsion from queue and batch.

        L_CA = alpha * mean_x sum_{k != x} pi_k|x ||q_x - k_k||^2
        L_CR = -beta * mean_x sum_j pi_j|x ||q_x - n_j||^2

    The negatives n_j are the queue and, with `in_batch`, the queries of other samples in the same
    view; pi_j|x is one softmax of -tau_negative * distance over both. Gradient flows through the
    in-batch logits of these weights, but neither through those of the queue nor through pi_k|x.

    Source: Zheng et al. 2023, released code of the large-scale experiments, arXiv 2105.03746.

    Args:
        queries: (V, B, D), L2-normalised online embeddings, V >= 2.
        keys: (V, B, D), L2-normalised momentum embeddings; no gradient.
        queue: (Q, D), L2-normalised keys of earlier batches; no gradient.
        tau_positive: > 0, inverse temperature of the attraction weights.
        tau_negative: > 0, inverse temperature of the repulsion weights.
        alpha: factor of the attraction.
        beta: factor of the repulsion.
        in_batch: whether queries of other samples are negatives too.
        reuse_first_view: reproduce an error of the released code, in which every view uses the
            first view's distances to the queue.
        weighting: see `cacr`; uniform weights are equal over queue and batch.
        **kernel: see `KernelOptions`.

    Returns:
        The two terms per sample and the entropies of their weights.

    Raises:
        ValueError: an unknown weighting, or shapes that do not fit.

    Distributed: gathers in-batch negatives if a `group` is given; a queue is never gathered.

    Deviation: the released code takes in-batch negatives from the local device only.

    >>> z = torch.eye(2)[:1].expand(2, 1, 2)  # views agree; one row in the queue, at distance 2
    >>> cacr_queue(z, z, torch.eye(2)[1:], in_batch=False).repulsion
    tensor([-2.])
    """
    _check_views(queries)
    if keys.shape != queries.shape:
        raise ValueError(
            f"queries and keys have shapes {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
    queries, keys = at_least_float32(queries), at_least_float32(keys).detach()
    diagonal = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    distance = (queries[:, None] - keys[None]).square().sum(-1)  # (V, V, B)
    slope = tau_positive if weighting in ("full", "without_w2") else 0.0
    logits = (slope * distance.detach()).masked_fill(diagonal[..., None], -torch.inf)
    log_weight = logits.log_softmax(1)
    pulled = (log_weight.exp() * distance).sum(1).mean(0)
    positive_entropy = -(log_weight.exp() * log_weight.masked_fill(diagonal[..., None], 0)).sum(1)

    costs, entropies = [], []
    far = _uniform if weighting in ("without_w2", "none") else _weighted
    for query in queries:
        seen = queries[0] if reuse_first_view else query
        push = far(query, seen, queue.detach(), tau_negative, in_batch, kernel)
        costs.append(push.cost)
        entropies.append(push.entropy)
    pushed = torch.stack(costs).mean(0)
    return CacrTerms(
        alpha * pulled, -beta * pushed, positive_entropy.mean(0), torch.stack(entropies).mean(0)
    )


def _weighted(
    query: Tensor, seen: Tensor, queue: Tensor, tau: float, in_batch: bool, kernel: KernelOptions
) -> WeightedCost:
    """Near rows of the queue (at their distances to `seen`) and near queries weigh more."""
    stored = _logits(seen, queue, tau, All(), local(kernel))
    # Value of the queue's cost, with the gradient at fixed weights (d lse / d logit = pi).
    fixed = stored.row_lse.detach()
    cost = -(stored.row_mom.detach() + stored.row_lse - fixed) / tau
    entropy = fixed - stored.row_mom.detach()
    if in_batch:
        batch = _logits(query, query, tau, ExcludeSelf(), kernel)
        both = torch.logaddexp(fixed, batch.row_lse)
        share = (batch.row_lse - both).exp()
        cost = (fixed - both).exp() * cost - share * batch.row_mom / tau
        entropy = both - (1 - share) * stored.row_mom - share * batch.row_mom
    return WeightedCost(cost, entropy.detach())


def _uniform(
    query: Tensor, seen: Tensor, queue: Tensor, tau: float, in_batch: bool, kernel: KernelOptions
) -> WeightedCost:
    """Mean squared distance over the rows of the queue and, `in_batch`, other queries."""
    rows = torch.tensor(float(len(queue)), device=query.device, dtype=query.dtype)
    mean, squares = queue.to(query.dtype).mean(0), queue.to(query.dtype).square().sum(1).mean()
    cost = seen.square().sum(-1) + squares - 2 * seen @ mean
    if in_batch and (len(query) > 1 or process_group(kernel)[0]):  # one sample: queue only
        others = count_rows(query.shape[0], query, kernel) - 1
        cost = (rows * cost + others * _uniform_repulsion(query, query, kernel).cost) / (
            rows + others
        )
        rows = rows + others
    return WeightedCost(cost, rows.log().expand_as(cost).detach())


def _logits(query: Tensor, key: Tensor, tau: float, spec: Spec, kernel: KernelOptions) -> Stats:
    """Log-sum and mean of -tau ||q_i - k_j||^2 over the keys that count."""
    left, right = gaussian_factors(query, key)
    loose: KernelOptions = {**kernel, "unit_norm": False, "precision": "exact"}
    return sweep(left, right, 2 * tau, spec, moment=True, **loose)
