"""Losses with several positives per row: SupCon, multi-view InfoNCE, 1-to-K, Hydra.

# N rows, M columns, K positives per row, D dim
"""

import itertools
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.pair import pair_softplus
from ...kernels.specs.weights import Block, Exclude, ExcludePositive, Labels, OnlyPositive
from ..output import LossOutput, check_pair, full_precision
from . import equations
from .info_nce import clip
from .kernel import (
    KernelOptions,
    as_scale,
    count_rows,
    key_options,
    mean_loss,
    rows_of_all_ranks,
    runs_plain,
    sum_over_ranks,
    sweep,
)


def check_labels(query: Tensor, key: Tensor, query_labels: Tensor, key_labels: Tensor) -> None:
    """Raise ValueError for labels that do not fit their embeddings.

    Raises:
        ValueError: shapes that do not fit; the message has all of them.
    """
    check_pair(query, key, same_rows=False)
    if not (isinstance(query_labels, Tensor) and isinstance(key_labels, Tensor)):
        found = f"{type(query_labels).__name__} and {type(key_labels).__name__}"
        raise ValueError(f"labels must be tensors, got {found}")
    if query_labels.shape != query.shape[:1] or key_labels.shape != key.shape[:1]:
        raise ValueError(
            f"one label per row: labels {tuple(query_labels.shape)} and {tuple(key_labels.shape)} "
            f"for embeddings {tuple(query.shape)} and {tuple(key.shape)}"
        )


@full_precision
def sup_con(
    query: Tensor,
    key: Tensor,
    query_labels: Tensor,
    key_labels: Tensor,
    scale: Tensor | float,
    *,
    exclude_self: bool = False,
    mode: Literal["out", "in"] = "out",
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Supervised contrastive loss: all keys of the same label are positives.

        P_i = {j != self(i): y_j = y_i},   A_i = {j != self(i)}
        out: l_i = -1/|P_i| * sum_{p in P_i} log [exp(s_ip) / sum_{a in A_i} exp(s_ia)]
        in:  l_i = -log [1/|P_i| * sum_{p in P_i} exp(s_ip) / sum_{a in A_i} exp(s_ia)]

    Source: Khosla et al. 2020, equations 2 and 3, arXiv 2004.11362.

    Args:
        query: (N, D), L2-normalised.
        key: (M, D), L2-normalised; the queries themselves, or another set such as a memory bank.
        query_labels: (N,) int64.
        key_labels: (M,) int64.
        scale: > 0, multiplies the similarities (1 / temperature).
        exclude_self: key i is query i and is left out (pass the same rows twice).
        mode: whether the mean over positives is outside or inside the logarithm.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows that have a positive (0 if none has); other rows have loss 0. Hits: the
        nearest key has the label of the row.

    Raises:
        ValueError: an unknown mode, or shapes that do not fit.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> z, y = torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1])
    >>> loss = sup_con(z, z, y, y, scale=torch.tensor(4.0).log(), exclude_self=True).loss
    >>> loss.exp().round(decimals=4)  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """
    check_labels(query, key, query_labels, key_labels)
    if mode not in ("out", "in"):
        raise ValueError(f"mode must be 'out' or 'in', got {mode!r}")
    scale = as_scale(scale)
    if len(key) > exclude_self and runs_plain(query, key, "labels", kernel):
        return equations.sup_con(
            query, key, query_labels, key_labels, scale, exclude_self=exclude_self, mode=mode
        )
    labels = Labels(query_labels, key_labels, exclude_self=exclude_self)
    all_labels = rows_of_all_ranks(key_labels, key_options(kernel))
    count = positive_count(query_labels, all_labels, exclude_self)
    valid = count > 0
    stats = sweep(query, key, scale, labels, top1=True, **kernel)
    if mode == "out":
        per_sample = stats.row_lse - stats.row_lin
    else:
        inside = sweep(query, key, scale, labels & OnlyPositive(), **kernel).row_lse
        inside = torch.where(valid, inside, 0) - count.clamp(min=1).to(inside.dtype).log()
        per_sample = torch.where(valid, stats.row_lse, 0) - inside
    per_sample = torch.where(valid, per_sample, 0)
    return LossOutput(mean_loss(per_sample, kernel, valid), per_sample, stats.top1)


def positive_count(query_labels: Tensor, key_labels: Tensor, exclude_self: bool) -> Tensor:
    """(N,) number of keys with the label of the query, without itself if `exclude_self`."""
    ordered = key_labels.sort().values
    upper = torch.searchsorted(ordered, query_labels, right=True)
    return upper - torch.searchsorted(ordered, query_labels) - int(exclude_self)


@full_precision
def one_to_k(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    num_texts: int,
    *,
    positives_compete: bool = True,
    image_weight: float = 1.0,
    text_weight: float | None = None,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Contrast every image with its K texts jointly, and every text with its image.

        i2t_i = 1/K * sum_{p of i} [log sum_{j in C_ip} exp(s_ij) - s_ip]
        t2i_i = 1/K * sum_{p of i} [log sum_{i'} exp(s_i'p) - s_ip]
        L = mean_i 1/2 * [image_weight * i2t_i + text_weight * t2i_i]

    C_ip is all texts, or with `positives_compete=False` the text p and those of other images.

    Source: Nie et al. 2024, "Improving the Consistency in Cross-Lingual Cross-Modal Retrieval
    with 1-to-K Contrastive Learning", section 3.3, arXiv 2406.18254.

    Args:
        image: (B, D), L2-normalised.
        text: (B * K, D), L2-normalised; texts i*K ... i*K + K - 1 belong to image i.
        scale: > 0, multiplies the similarities (1 / temperature).
        num_texts: K >= 1.
        positives_compete: whether the other K - 1 texts of an image stay in the denominator.
        image_weight: weight of the image -> text direction.
        text_weight: weight of the text -> image direction; None is 1/K, as in the official code,
            which divides the sum of both directions by K.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over images; hits: the nearest text of an image is one of its own.

    Raises:
        ValueError: `num_texts` < 1, or the row counts do not fit it.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> image, text = torch.eye(2), torch.eye(2).repeat_interleave(2, 0)
    >>> scale = torch.tensor(3.0).log()  # i2t = log(8/3), t2i = log(4/3), weights 1 and 1/2
    >>> one_to_k(image, text, scale, 2).loss.round(decimals=4)
    tensor(0.5623)
    """
    check_pair(image, text, same_rows=False, names="image, text")
    if num_texts < 1 or text.shape[0] != image.shape[0] * num_texts:
        raise ValueError(
            f"need num_texts >= 1 texts per image, got num_texts={num_texts} with image, text of "
            f"shapes {tuple(image.shape)} and {tuple(text.shape)}"
        )
    score = scale * (image[:, None] * text.view(-1, num_texts, text.shape[1])).sum(-1)  # (B, K)
    stats = sweep(image, text, scale, Block(num_texts), columns=True, top1=True, **kernel)
    image_term = stats.row_lse - stats.row_lin
    if not positives_compete:
        others = Block(num_texts) & ExcludePositive()
        negatives = sweep(image, text, scale, others, **kernel).row_lse
        image_term = F.softplus(negatives[:, None] - score, threshold=50.0).mean(1)
    text_term = (stats.col_lse.view_as(score) - score).mean(1)
    weight = 1 / num_texts if text_weight is None else text_weight
    per_sample = 0.5 * (image_weight * image_term + weight * text_term)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, stats.top1)


@full_precision
def disparate(
    query: Tensor,
    key: Tensor,
    gate: Tensor,
    query_labels: Tensor,
    partner_labels: Tensor,
    key_labels: Tensor,
    scale: Tensor | float,
    *,
    exclude_self: bool = False,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Attract samples of a partner class in a gated subspace, each pair against the negatives.

        s_ij = scale * <g_i * q_i, g_i * k_j>
        P_i = {j: y_j = partner_i},   Neg_i = {j: y_j not in {y_i, partner_i}}
        l_i = sum_{p in P_i} log [1 + sum_{m in Neg_i} exp(s_im) / exp(s_ip)]
        L = sum_i l_i / sum_i |P_i|

    Source: Hydra / SimLAP; equation of the released `multipos_ce_loss`.

    Args:
        query: (N, D), L2-normalised before gating.
        key: (M, D), L2-normalised.
        gate: (N, D) in [0, 1], gate of the query's class pair, applied to both sides.
        query_labels: (N,) int64, y_i.
        partner_labels: (N,) int64, class of the row's positives; may equal y_i.
        key_labels: (M,) int64.
        scale: > 0, multiplies the similarities (1 / temperature).
        exclude_self: key i is query i and is no positive of itself; False counts it, as the
            released code does.
        **kernel: see `KernelOptions`.

    Returns:
        Sum over positive pairs divided by their number (0 without any); per sample the sum over
        its positives divided by the mean number of positives of a row. No hits.

    Raises:
        ValueError: shapes that do not fit.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> z, y = torch.eye(2), torch.tensor([0, 1])
    >>> out = disparate(z, z, torch.ones(2, 2), y, y, y, scale=torch.tensor(3.0).log())
    >>> out.loss.exp().round(decimals=4)  # log(1 + 1/3) for each row
    tensor(1.3333)
    """
    check_labels(query, key, query_labels, key_labels)
    check_pair(query, gate, names="query, gate")
    # <g q, g k> = <g^2 q, k>: the query's gate on both sides is still bilinear in query and key.
    gated = query * gate.square()
    options: KernelOptions = {**kernel, "unit_norm": False}
    negative = Exclude(query_labels, key_labels, second=partner_labels, keep_positive=False)
    negatives = sweep(gated, key, scale, negative, **options).row_lse
    # log(1 + sum e^(s_im - s_ip)) = softplus(negatives - s_ip), summed over the positives.
    positive = Labels(partner_labels, key_labels, exclude_self) & OnlyPositive()
    per_row = pair_softplus(gated, key, scale, positive, row_offset=negatives, **options)
    all_labels = rows_of_all_ranks(key_labels, key_options(kernel))
    count = positive_count(partner_labels, all_labels, False).to(per_row.dtype)
    if exclude_self:
        count = count - (partner_labels == query_labels).to(count)
    total = sum_over_ranks(count.sum(), kernel).clamp(min=1)
    per_sample = per_row * (count_rows(query.shape[0], per_row, kernel) / total)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, None)


def multi_view_info_nce(
    views: Tensor, scale: Tensor | float, **kernel: Unpack[KernelOptions]
) -> LossOutput:
    """Symmetric InfoNCE of every pair of views ("full graph").

        L = mean_{x < y} clip(z_x, z_y)

    Source: Tian et al. 2020, "Contrastive multiview coding" (more than two views), arXiv
    1906.05849; a mean in place of the sum.

    Args:
        views: (V, B, D), L2-normalised, V >= 2; row i of all views is of the same sample.
        scale: > 0, multiplies the similarities (1 / temperature).
        **kernel: see `KernelOptions`.

    Returns:
        Mean over pairs and rows; per row the mean over pairs; no hits.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> views = torch.eye(2).expand(3, 2, 2)  # three views that agree
    >>> multi_view_info_nce(views, torch.tensor(3.0).log()).loss.exp().round(decimals=4)
    tensor(1.3333)
    """
    pairs = [clip(x, y, scale, **kernel) for x, y in itertools.combinations(views, 2)]
    per_sample = torch.stack([out.per_sample for out in pairs]).mean(0)
    return LossOutput(torch.stack([out.loss for out in pairs]).mean(), per_sample, None)
