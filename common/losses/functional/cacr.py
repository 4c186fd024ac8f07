"""Contrastive attraction and contrastive repulsion (CACR).

# V views, B samples, N rows, M columns, D dim
"""

import itertools
from typing import Literal, NamedTuple, Unpack

import torch
from torch import Tensor

from ...kernels.specs.weights import Diagonal, ExcludePositive, ExcludeSelf, Spec
from ..output import LossOutput, at_least_float32, check_pair, full_precision
from .geometry import gaussian_factors
from .info_nce import info_nce
from .kernel import (
    KernelOptions,
    count_rows,
    mean_loss,
    process_group,
    sum_over_ranks,
    sweep,
)

WEIGHTINGS = ("full", "without_w1", "without_w2", "none")
COSTS = ("euclidean", "rbf")


class WeightedCost(NamedTuple):
    """Weighted cost of each row and entropy of its weights (detached), both (N,)."""

    cost: Tensor
    entropy: Tensor


def _check_views(views: Tensor) -> None:
    if views.ndim != 3 or views.shape[0] < 2:
        raise ValueError(f"expected (views >= 2, samples, dim), got shape {tuple(views.shape)}")


@full_precision
def attraction(
    views: Tensor, tau: float = 1.0, *, weighted: bool = True, detach_weights: bool = False
) -> WeightedCost:
    """Weighted squared distance to a sample's other views; far ones weigh more.

        d_xk = ||z_x - z_k||^2,   pi_k|x = softmax_{k != x}(tau * d_xk)
        l_i = mean_x sum_{k != x} pi_k|x * d_xk

    Source: Zheng et al. 2023, "Contrastive Attraction and Contrastive Repulsion for
    Representation Learning", equations 5 and 7, arXiv 2105.03746.

    Args:
        views: (V, B, D), L2-normalised, V >= 2.
        tau: > 0, multiplies the distances inside the weights (an inverse temperature).
        weighted: False gives every other view the weight 1 / (V - 1).
        detach_weights: no gradient through the weights.

    Returns:
        Cost and entropy of the weights, (B,) each.

    Raises:
        ValueError: fewer than two views.

    Distributed: local, and exact on several ranks, since no other sample is involved.

    >>> views = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    >>> attraction(views).cost
    tensor([2., 0.])
    """
    _check_views(views)
    z = at_least_float32(views).transpose(0, 1)  # (B, V, D)
    distance = (z[:, :, None] - z[:, None]).square().sum(-1)  # (B, V, V)
    logits = tau * distance if weighted else torch.zeros_like(distance)
    diagonal = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    log_weight = logits.masked_fill(diagonal, -torch.inf).log_softmax(-1)  # Eq. 5
    weight = log_weight.exp()
    entropy = -(weight * log_weight.masked_fill(diagonal, 0)).sum(-1).mean(-1).detach()
    weight = weight.detach() if detach_weights else weight
    return WeightedCost((weight * distance).sum(-1).mean(-1), entropy)  # Eq. 7


@full_precision
def repulsion(
    query: Tensor,
    key: Tensor,
    tau: float = 1.0,
    *,
    weighted: bool = True,
    detach_weights: bool = False,
    mask: Spec | None = None,
    **kernel: Unpack[KernelOptions],
) -> WeightedCost:
    """Weighted squared distance to the negatives; near ones weigh more. Subtract it from a loss.

        d_ij = ||q_i - k_j||^2,   pi_j|i = softmax_{j counts}(-tau * d_ij)
        c_i = sum_j pi_j|i * d_ij

    Source: Zheng et al. 2023, equations 6 and 8, arXiv 2105.03746.

    Args:
        query: (N, D), L2-normalised.
        key: (M, D), L2-normalised: another view, all ranks, or a queue.
        tau: > 0, multiplies the distances inside the weights (an inverse temperature).
        weighted: False weights all included keys equally; only for keys of another view.
        detach_weights: no gradient through the weights.
        mask: pairs to include; None excludes pairs (i, i), `All()` none (a queue).
        **kernel: see `KernelOptions`.

    Returns:
        Cost and entropy of the weights, (N,) each.

    Raises:
        ValueError: shapes that do not fit.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> query, key = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> repulsion(query, key).cost
    tensor([2.])
    """
    check_pair(query, key, same_rows=False)
    if not weighted:
        if mask is not None:
            raise ValueError("weighted=False averages over pairs i != j and takes no mask")
        return _uniform_repulsion(query, key, kernel)
    left, right = gaussian_factors(query, key)  # <left_i, right_j> = -d_ij / 2
    spec = ExcludeSelf() if mask is None else mask
    loose: KernelOptions = {**kernel, "unit_norm": False, "precision": "exact"}
    stats = sweep(left, right, 2 * tau, spec, moment=True, **loose)  # Eq. 6: weights of its sums
    cost = -stats.row_mom / tau  # Eq. 8
    if detach_weights:
        # d lse / d s = pi: the value of `cost` with the gradient at fixed weights.
        through = -stats.row_lse / tau
        cost = cost.detach() + (through - through.detach())
    return WeightedCost(cost, (stats.row_lse - stats.row_mom).detach())


@full_precision
def rbf_repulsion(
    query: Tensor,
    key: Tensor,
    tau: float = 1.0,
    t: float = 2.0,
    *,
    weighted: bool = True,
    detach_weights: bool = False,
    **kernel: Unpack[KernelOptions],
) -> WeightedCost:
    """Weighted Gaussian similarity to the negatives; near ones weigh more.

        d_ij = ||q_i - k_j||^2,   pi_j|i = softmax_{j != i}(-tau * d_ij)
        c_i = sum_j pi_j|i * exp(-t * d_ij) = exp(lse_j(-(tau + t) d_ij) - lse_j(-tau d_ij))

    Source: Zheng et al. 2023, RBF cost of the released code, arXiv 2105.03746.

    Args:
        query: (N, D), L2-normalised.
        key: (M, D), L2-normalised, another view; row i is of the same sample and excluded.
        tau: > 0, multiplies the distances inside the weights (an inverse temperature).
        t: > 0, one over the squared bandwidth of the cost.
        weighted: False gives every other sample the same weight.
        detach_weights: no gradient through the weights.
        **kernel: see `KernelOptions`.

    Returns:
        Cost in (0, 1] and entropy of the weights, (N,) each. A loss uses the log of the cost's mean
        over the batch.

    Raises:
        ValueError: shapes that do not fit.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> query, key = torch.eye(2), torch.eye(2)  # one negative each, at squared distance 2
    >>> rbf_repulsion(query, key, t=0.5).cost.log()
    tensor([-1., -1.])
    """
    check_pair(query, key)
    left, right = gaussian_factors(query, key)  # <left_i, right_j> = -d_ij / 2
    loose: KernelOptions = {**kernel, "unit_norm": False, "precision": "exact"}
    if not weighted:
        log_count = (count_rows(key.shape[0], left, kernel) - 1).log()
        log_mean = sweep(left, right, 2 * t, ExcludeSelf(), **loose).row_lse - log_count
        return WeightedCost(log_mean.exp(), log_count.expand_as(log_mean))
    stats = sweep(left, right, 2 * tau, ExcludeSelf(), moment=True, **loose)
    joint = sweep(left, right, 2 * (tau + t), ExcludeSelf(), **loose).row_lse
    log_cost = joint - stats.row_lse
    if detach_weights:
        # of the slope -(tau + t) of the joint exponent, -t belongs to the cost
        log_cost = log_cost.detach() + t / (tau + t) * (joint - joint.detach())
    return WeightedCost(log_cost.exp(), (stats.row_lse - stats.row_mom).detach())


def _log_batch_mean(cost: Tensor, kernel: KernelOptions) -> Tensor:
    """Log of the mean over the rows of all ranks, for every local row."""
    total = sum_over_ranks(cost.sum(), kernel)
    return (total / count_rows(cost.shape[0], cost, kernel)).log().expand_as(cost)


def _uniform_repulsion(query: Tensor, key: Tensor, kernel: KernelOptions) -> WeightedCost:
    """Mean squared distance to the keys of other samples, from sums."""
    check_pair(query, key)
    query, key = at_least_float32(query), at_least_float32(key)
    num_keys = count_rows(key.shape[0], key, kernel)
    key_sum = sum_over_ranks(key.sum(0), kernel)
    squares = sum_over_ranks(key.square().sum(), kernel)
    every = num_keys * query.square().sum(-1) + squares - 2 * query @ key_sum
    cost = (every - (query - key).square().sum(-1)) / (num_keys - 1)
    return WeightedCost(cost, (num_keys - 1).log().expand_as(cost))


class CacrTerms(NamedTuple):
    """Attraction and repulsion costs (the loss is their sum) and weight entropies; (B,) each."""

    attraction: Tensor
    repulsion: Tensor
    positive_entropy: Tensor
    negative_entropy: Tensor


@full_precision
def cacr(
    views: Tensor,
    tau_positive: float = 1.0,
    tau_negative: float = 0.9,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    weighting: Literal["full", "without_w1", "without_w2", "none"] = "full",
    detach_weights: bool = False,
    tau_plus: float = 0.0,
    cost: Literal["euclidean", "rbf"] = "euclidean",
    rbf_t: float = 2.0,
    **kernel: Unpack[KernelOptions],
) -> CacrTerms:
    """Attraction among the views of a sample plus repulsion from other samples.

        L_CA = alpha * attraction,   L_CR = mean_{x < y} [-beta * repulsion(z_x, z_y)]
        with tau_plus: L_CR = mean_{x < y} [-(tau_plus * c_pos + beta * repulsion) / (1 - tau_plus)]
        rbf: L_CR = mean_{x < y} beta * log mean_i rbf_repulsion(z_x, z_y), the same for all rows

    Source: Zheng et al. 2023, equations 5 to 8, arXiv 2105.03746.

    Args:
        views: (V, B, D), L2-normalised, V >= 2.
        tau_positive: > 0, inverse temperature of the attraction weights.
        tau_negative: > 0, inverse temperature of the repulsion weights.
        alpha: factor of the attraction; it does not change the weights.
        beta: factor of the repulsion; it does not change the weights.
        weighting: which weights are conditional; "without_w1" makes the positive weights uniform,
            "without_w2" the negative ones, "none" both.
        detach_weights: no gradient through the weights (the momentum variants of the paper).
        tau_plus: in [0, 1), class prior of the debiased repulsion; Euclidean cost only.
        cost: of the repulsion.
        rbf_t: > 0, one over the squared bandwidth of the RBF cost.
        **kernel: see `KernelOptions`.

    Returns:
        The two terms per sample and the entropies of their weights.

    Raises:
        ValueError: an unknown weighting or cost, fewer than two views, or a single sample and no
            group (no negatives).

    Distributed: gathers negatives if a `group` is given, else local.

    >>> views = torch.eye(2).expand(2, 2, 2)  # two views that agree, two samples
    >>> terms = cacr(views)
    >>> terms.attraction, terms.repulsion
    (tensor([0., 0.]), tensor([-2., -2.]))
    """
    _check_views(views)
    if views.shape[1] < 2 and not process_group(kernel)[0]:
        raise ValueError(f"one sample has no negatives; the views are {tuple(views.shape)}")
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {COSTS}, got {cost!r}")
    if cost == "rbf" and tau_plus:
        raise ValueError("the debiased repulsion (tau_plus > 0) has the Euclidean cost only")
    pull = attraction(
        views,
        tau_positive,
        weighted=weighting in ("full", "without_w2"),
        detach_weights=detach_weights,
    )
    weighted = weighting in ("full", "without_w1")
    far, entropy = [], []
    for x, y in itertools.combinations(views, 2):  # each pair once, x as query
        if cost == "rbf":
            push = rbf_repulsion(
                x,
                y,
                tau_negative,
                rbf_t,
                weighted=weighted,
                detach_weights=detach_weights,
                **kernel,
            )
            far.append(beta * _log_batch_mean(push.cost, kernel))
        else:
            push = repulsion(
                x, y, tau_negative, weighted=weighted, detach_weights=detach_weights, **kernel
            )
            repelled = beta * push.cost
            if tau_plus:
                positive = (at_least_float32(x) - y).square().sum(-1)
                repelled = (repelled + tau_plus * positive) / (1 - tau_plus)
            far.append(-repelled)
        entropy.append(push.entropy)
    pushed = torch.stack(far).mean(0)
    return CacrTerms(alpha * pull.cost, pushed, pull.entropy, torch.stack(entropy).mean(0))


@full_precision
def cacr_momentum(
    queries: Tensor,
    key: Tensor,
    temperature: float,
    *,
    cost: Literal["rbf", "euclidean"] = "rbf",
    weighted: bool = True,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """CACR of several online views against one momentum view (ImageNet recipe).

        p_v = softmax_v(||q_v - k||^2 / T),   no gradient
        rbf:       l_i = sum_v p_v * 2T * InfoNCE(q_v, k; 1/T)
        euclidean: l_i = sum_v p_v * [(1 - <q_v, k>) - sum_{j != i} pi_j * (1 - <q_v, k_j>)]

    Source: Zheng et al. 2023, section 4.2 and the released ImageNet code, arXiv 2105.03746.

    Args:
        queries: (V, N, D), L2-normalised online embeddings of the other views.
        key: (N, D), L2-normalised momentum embeddings; no gradient.
        temperature: T > 0.
        cost: "rbf" is the default of the paper's ImageNet runs.
        weighted: False gives every view the weight 1 / V; with the RBF cost that is InfoNCE.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows; hits of the first view.

    Raises:
        ValueError: an unknown cost, shapes that do not fit, or with the Euclidean cost a single
            sample and no group (no negatives).

    Distributed: gathers negatives if a `group` is given, else local.

    Deviation: the released Euclidean form sums over rows; here both forms average.

    >>> z = torch.eye(2)  # one view: p = 1, so it is 2T times InfoNCE
    >>> cacr_momentum(z[None], z, temperature=1.0).loss.round(decimals=4)
    tensor(0.6265)
    """
    if cost not in ("rbf", "euclidean"):
        raise ValueError(f"cost must be 'rbf' or 'euclidean', got {cost!r}")
    if cost == "euclidean" and len(key) < 2 and not process_group(kernel)[0]:
        raise ValueError(f"one sample has no negatives; the keys are {tuple(key.shape)}")
    key = key.detach()
    far = (queries.detach() - key).square().sum(-1) / temperature  # (V, N)
    weight = (far if weighted else torch.zeros_like(far)).softmax(0)
    outputs = [info_nce(query, key, 1 / temperature, **kernel) for query in queries]
    if cost == "rbf":
        costs = [2 * temperature * out.per_sample for out in outputs]
    else:
        costs = [_euclidean_cost(query, key, temperature, kernel) for query in queries]
    per_sample = (weight * torch.stack(costs)).sum(0)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, outputs[0].hits)


def _euclidean_cost(
    query: Tensor, key: Tensor, temperature: float, kernel: KernelOptions
) -> Tensor:
    """Cosine cost of the positive minus that of the negatives, at fixed weights."""
    others = Diagonal() & ExcludePositive()
    stats = sweep(query, key, 1 / temperature, others, moment=True, **kernel)
    # sum_j pi_j * (1 - <q, k_j>): the value from the moment, the slope from the log-sum.
    push = 1 - temperature * (stats.row_mom.detach() + stats.row_lse - stats.row_lse.detach())
    return 1 - (query * key).sum(-1) - push
