"""Losses with soft targets: CWCL, distillation, given weights, symmetric KL.

# N rows, M columns, C classes, D dim
"""

from typing import Unpack

import torch
from torch import Tensor

from ...kernels.specs.weights import All, ExcludeSelf, LowRank, Spec
from ..output import LossOutput, at_least_float32, check_pair, full_precision
from .kernel import (
    KernelOptions,
    count_rows,
    key_options,
    mean_loss,
    process_group,
    sum_over_ranks,
    sweep,
)


def check_guides(query: Tensor, key: Tensor, u: Tensor, v: Tensor, names: str) -> None:
    """Raise ValueError unless there is one row of features for each query and key.

    Raises:
        ValueError: shapes that do not fit; the message has them.
    """
    check_pair(u, v, same_rows=False, names=names)
    if (len(u), len(v)) != (len(query), len(key)):
        raise ValueError(
            f"one row of {names} for each query and key: shapes {tuple(u.shape)} and "
            f"{tuple(v.shape)} for {len(query)} queries and {len(key)} keys"
        )


@full_precision
def cwcl(
    query: Tensor,
    key: Tensor,
    query_features: Tensor,
    key_features: Tensor,
    scale: Tensor | float,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Continuously weighted contrastive loss: a guide weights every key as a positive.

        w_ij = <u_i, v_j> / 2 + 1/2,   no gradient
        l_i = -1 / (sum_j w_ij) * sum_j w_ij * log [exp(s_ij) / sum_k exp(s_ik)]

    This is one direction: queries are of the frozen modality, whose features give the weights. The
    full objective adds InfoNCE from the keys to the queries.

    Source: Srinivasa et al. 2023, "CWCL: Cross-Modal Transfer with Continuously Weighted
    Contrastive Loss", equation 3, arXiv 2309.14580.

    Args:
        query: (N, D), L2-normalised, frozen modality.
        key: (M, D), L2-normalised, trained modality.
        query_features: (N, R), L2-normalised features of the queries' samples.
        key_features: (M, R), L2-normalised features of the keys' samples in the frozen modality.
        scale: > 0, multiplies the similarities (1 / temperature).
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows, bounded below by the entropy of the weights; no hits (all keys are
        positives).

    Raises:
        ValueError: shapes that do not fit.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> z = torch.eye(2)  # weights 1 and 1/2, log-probabilities of -log(4/3) and -log(4)
    >>> cwcl(z, z, z, z, scale=torch.tensor(3.0).log()).loss.round(decimals=4)
    tensor(0.6539)
    """
    check_pair(query, key, same_rows=False)
    check_guides(query, key, query_features, key_features, "features")
    weights = LowRank(query_features, key_features, factor=0.5, shift=0.5)
    stats = sweep(query, key, scale, weights, **kernel)
    over_keys = key_options(kernel)
    feature_sum = sum_over_ranks(key_features.detach().sum(0), over_keys)
    num_keys = count_rows(key.shape[0], key, over_keys)
    total = 0.5 * (query_features.detach() @ feature_sum + num_keys)  # sum_j w_ij
    per_sample = stats.row_lse - stats.row_lin / total
    return LossOutput(mean_loss(per_sample, kernel), per_sample, None)


@full_precision
def distillation(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    scale: Tensor | float,
    teacher_scale: float,
    *,
    relative: bool = False,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Cross entropy of the student's in-batch softmax against the teacher's.

        t_ij = softmax_j(teacher_scale * <u_i, v_j>),   no gradient
        l_i = -sum_j t_ij * log softmax_j(scale * <q_i, k_j>)

    Source: Hinton et al. 2015, arXiv 1503.02531, on similarities as in Tejankar et al. 2021
    (ISD), equation 1, arXiv 2012.09259.

    Args:
        query: (N, D) student queries, L2-normalised if cosines are meant.
        key: (M, D) student keys.
        teacher_query: (N, R).
        teacher_key: (M, R).
        scale: > 0, multiplies the student's similarities.
        teacher_scale: > 0, multiplies the teacher's; larger is sharper.
        relative: subtract the teacher's entropy, which makes it the KL divergence (>= 0).
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows; no hits.

    Raises:
        ValueError: shapes that do not fit.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> z = torch.eye(2)
    >>> float(distillation(z, z, z, z, 2.0, 2.0, relative=True).loss.abs() < 1e-6)
    1.0
    """
    check_pair(query, key, same_rows=False)
    check_guides(query, key, teacher_query, teacher_key, "teacher query, key")
    u, v = at_least_float32(teacher_query.detach()), at_least_float32(teacher_key.detach())
    # float32: targets from rounded products would not sum to 1
    loose: KernelOptions = {**kernel, "unit_norm": False, "precision": "exact"}
    teacher = sweep(u, v, teacher_scale, All(), moment=relative, **loose)
    target = LowRank(u, v, "softmax", factor=teacher_scale, row_shift=teacher.row_lse)
    stats = sweep(query, key, scale, target, **kernel)
    per_sample = stats.row_lse - stats.row_lin
    if relative:
        per_sample = per_sample - (teacher.row_lse - teacher.row_mom)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, None)


@full_precision
def weighted_info_nce(
    query: Tensor,
    key: Tensor,
    scale: Tensor | float,
    weights: Tensor,
    *,
    exclude_self: bool = False,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Soft cross entropy with target weights: soft SupCon, shared-label targets.

        l_i = -1 / (sum_j w_ij) * sum_j w_ij * log [exp(s_ij) / sum_{k != self} exp(s_ik)]

    Source: Khosla et al. 2020, equation 2, arXiv 2004.11362, with real-valued membership.

    Args:
        query: (N, D).
        key: (M, D).
        scale: > 0, multiplies the similarities (1 / temperature).
        weights: (N, M) >= 0, no gradient; its diagonal is ignored with `exclude_self`.
        exclude_self: the keys are the queries; pair (i, i) is left out.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows with a positive weight (0 if none has); other rows have loss 0. No hits.

    Raises:
        ValueError: shapes that do not fit, or a `group` of several ranks.

    Distributed: local.

    >>> z = torch.eye(2)
    >>> out = weighted_info_nce(z, z, torch.tensor(3.0).log(), torch.eye(2))
    >>> out.loss.exp().round(decimals=4)  # identity weights are InfoNCE
    tensor(1.3333)
    """
    check_pair(query, key, same_rows=exclude_self)
    if process_group(kernel)[0]:
        raise ValueError("given weights describe local pairs; gather before and pass group=None")
    if weights.shape != (query.shape[0], key.shape[0]):
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} for query, key of shapes "
            f"{tuple(query.shape)} and {tuple(key.shape)}"
        )
    spec: Spec = ExcludeSelf() if exclude_self else All()
    weights = weights.detach().to(query.dtype)
    if exclude_self:
        weights = weights - weights.diagonal().diag()
    total = weights.sum(-1)
    valid = total > 0
    weights = weights / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]
    row_lse = sweep(query, key, scale, spec, **kernel).row_lse
    # sum_j w_ij s_ij = scale * <q_i, (W k)_i>: no second N x M product of embeddings.
    per_sample = row_lse - scale * (query * (weights @ key)).sum(-1)
    per_sample = torch.where(valid, per_sample, 0)
    return LossOutput(mean_loss(per_sample, kernel, valid), per_sample, None)


@full_precision
def symmetric_kl(logits_1: Tensor, logits_2: Tensor) -> Tensor:
    """Mean of the two KL divergences between two softmax distributions, averaged over rows.

        L = 1/2 * mean_i [KL(p_i || q_i) + KL(q_i || p_i)]

    Source: Liang et al. 2021, "R-Drop", equation 2, arXiv 2106.14448.

    Args:
        logits_1: (B, C).
        logits_2: (B, C).

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: different shapes; both are printed.

    Distributed: local.

    >>> float(symmetric_kl(torch.tensor([[0.0, 1.0]]), torch.tensor([[5.0, 6.0]])).abs() < 1e-6)
    1.0
    """
    check_pair(logits_1, logits_2, names="logits_1, logits_2")
    log_p, log_q = (at_least_float32(x).log_softmax(-1) for x in (logits_1, logits_2))
    # KL(p||q) + KL(q||p) = sum (p - q)(log p - log q)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1).mean()
