"""The losses as plain torch on the matrix of all pairs, to read next to the papers and to run.

Small batches run these functions. Large ones run the fused operations of `common.kernels`, which
give the same result. The public functions of this package check arguments; these do not.

# N rows (queries, images), M columns (keys, texts), B samples of 2B anchors, D dim
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..output import LossOutput, Ranking


def info_nce(
    query: Tensor, keys: Tensor, scale: Tensor | float, label_smoothing: float = 0.0
) -> LossOutput:
    """Van den Oord et al. 2018; the first N of the M keys are the positives, the rest negatives."""
    log_p = (scale * query @ keys.T).log_softmax(1)
    if label_smoothing:
        per_row = (label_smoothing - 1) * log_p.diagonal() - label_smoothing * log_p.mean(1)
        return LossOutput(per_row.mean(), per_row, Ranking(log_p))
    positive = torch.arange(query.shape[0], device=query.device)
    loss = F.nll_loss(log_p, positive)  # Eq. 4
    return LossOutput(loss, lambda: -log_p.diagonal(), Ranking(log_p))


def clip(
    image: Tensor, text: Tensor, scale: Tensor | float, label_smoothing: float = 0.0
) -> LossOutput:
    """Radford et al. 2021."""
    logits = scale * image @ text.T
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    per_row = -0.5 * (rows.diagonal() + columns.diagonal())  # Fig. 3
    if label_smoothing:
        uniform = 0.5 * (rows.mean(1) + columns.mean(0))
        per_row = (1 - label_smoothing) * per_row - label_smoothing * uniform
    return LossOutput(per_row.mean(), per_row, Ranking(rows))


def siglip(image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float) -> LossOutput:
    """Zhai et al. 2023; a positive pair's log(1 + e^-x) is computed as log(1 + e^x) - x."""
    scaled = scale * image
    logits = scaled @ text.T + bias
    terms, cosines = F.softplus(logits, threshold=50.0), scaled * text
    loss = (terms.sum() - cosines.sum()) / image.shape[0] - bias  # Eq. 1
    return LossOutput(loss, lambda: terms.sum(1) - cosines.sum(1) - bias, Ranking(logits))


def nt_xent(anchors: Tensor, scale: Tensor | float) -> LossOutput:
    """Chen et al. 2020; (2B, D) anchors, view 1 then view 2."""
    num = anchors.shape[0] // 2
    log_p = logits_without_self(anchors, anchors, scale).log_softmax(1)
    partner = torch.arange(2 * num, device=anchors.device).roll(num)
    loss = F.nll_loss(log_p, partner)  # Eq. 1
    both = lambda: -0.5 * (log_p.diagonal(num) + log_p.diagonal(-num))  # noqa: E731
    return LossOutput(loss, both, Ranking(log_p, num))


def logits_without_self(query: Tensor, key: Tensor, scale: Tensor | float) -> Tensor:
    """Logits with -inf on the diagonal.

    Autograd does not see that they are replaced: a softmax of them has no gradient there anyway.
    """
    logits = scale * query @ key.T
    logits.detach().diagonal().fill_(-torch.inf)
    return logits


def dcl(anchors: Tensor, scale: Tensor | float, weight: Tensor | None = None) -> LossOutput:
    """Yeh et al. 2022; (2B, D) anchors, view 1 then view 2, and (B,) weights of DCLW."""
    num = anchors.shape[0] // 2
    logits = scale * anchors @ anchors.T
    positive = logits.diagonal(num).clone()
    weighted = positive if weight is None else weight * positive
    same = logits.detach().view(2, num, 2, num).diagonal(dim1=1, dim2=3)
    same.fill_(-torch.inf)  # unseen by autograd, as in `logits_without_self`
    negatives = logits.logsumexp(1)
    loss = 2 * (negatives.mean() - weighted.mean())  # Eq. 6, 7
    rows = lambda: negatives.view(2, num).sum(0) - 2 * weighted  # noqa: E731
    return LossOutput(loss, rows, Ranking(logits, positive))


def sup_con(
    query: Tensor,
    key: Tensor,
    query_labels: Tensor,
    key_labels: Tensor,
    scale: Tensor | float,
    exclude_self: bool,
    mode: str,
) -> LossOutput:
    """Khosla et al. 2020; rows without a positive have loss 0 and are left out of the mean."""
    positive = query_labels[:, None] == key_labels
    if exclude_self:
        positive.fill_diagonal_(False)
        log_p = logits_without_self(query, key, scale).log_softmax(1)
    else:
        log_p = (scale * query @ key.T).log_softmax(1)
    count = positive.sum(1, dtype=log_p.dtype)
    if mode == "out":
        total = log_p.masked_fill(~positive, 0).sum(1)
        weight = -(count * count.count_nonzero()).clamp(min=1).reciprocal()
        rows = lambda: -total / count.clamp(min=1)  # noqa: E731
        return LossOutput(total @ weight, rows, Ranking(log_p, positive))  # Eq. 2
    valid = count > 0
    inside = torch.where(positive, log_p, -torch.inf).masked_fill(~valid[:, None], 0)
    per_row = torch.where(valid, count.clamp(min=1).log() - inside.logsumexp(1), 0)  # Eq. 3
    return LossOutput(per_row.sum() / valid.sum().clamp(min=1), per_row, Ranking(log_p, positive))
