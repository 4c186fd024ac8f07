"""InfoNCE and CLIP: one positive per row, negatives from the batch, a queue or a miner.

# N rows (queries), M keys, K hard negatives per row, D dim

The functions do not normalise embeddings; L2-normalise them first to compare cosines.
"""

from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.row_loss import info_nce_rows
from ...kernels.sharded.specs import map_side, slice_keys
from ...kernels.specs.weights import (
    Diagonal,
    Exclude,
    ExcludePositive,
    ExcludeSelf,
    Index,
    Spec,
    Valid,
)
from ..output import LossOutput, check_pair, full_precision
from . import equations
from .kernel import (
    KernelOptions,
    as_scale,
    count_rows,
    first_row,
    joint_log_sum,
    local,
    mean_loss,
    process_group,
    runs_plain,
    sum_over_ranks,
    sweep,
)


@full_precision
def clip(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    *,
    mask: Spec | None = None,
    label_smoothing: float = 0.0,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """Symmetric InfoNCE: both directions from one product of the two matrices.

        s_ij = scale * <image_i, text_j>
        L = 1/2 * mean_i [log sum_j exp(s_ij) - s_ii] + 1/2 * mean_j [log sum_i exp(s_ij) - s_jj]

    Label smoothing e sets the target of a row to 1 - e on its partner plus e / N on every column.

    Source: Radford et al. 2021, figure 3, arXiv 2103.00020.

    Args:
        image: (N, D), L2-normalised if cosines are meant.
        text: (N, D), row i belongs to image i.
        scale: > 0, multiplies the similarities (1 / temperature).
        mask: pairs that count in both denominators, for example `Exclude(ids, ids)`.
        label_smoothing: in [0, 1).
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows; per row the mean of its two directions; hits of image -> text.

    Raises:
        ValueError: shapes that do not fit; label smoothing with a mask, which would put targets on
            excluded pairs.

    Distributed: gathers negatives if a `group` is given, else local.

    >>> pair = torch.eye(2)
    >>> clip(pair, pair, scale=torch.tensor(3.0).log()).loss.exp().round(decimals=4)  # (3 + 1) / 3
    tensor(1.3333)
    """
    check_pair(image, text, names="image, text")
    if label_smoothing and mask is not None:
        raise ValueError(
            "label_smoothing spreads over all columns: it does not combine with a mask (or ids)"
        )
    scale = as_scale(scale)
    if mask is None and runs_plain(image, text, "symmetric", kernel):
        return equations.clip(image, text, scale, label_smoothing)
    spec = Diagonal() if mask is None else Diagonal() & mask
    stats = sweep(image, text, scale, spec, columns=True, top1=True, **kernel)
    positive = stats.row_lin  # s_ii
    per_sample = 0.5 * (stats.row_lse + stats.col_lse) - positive
    if label_smoothing:
        # Mean logit of a row or column is one product with the mean key.
        num_rows = count_rows(image.shape[0], image, kernel)
        mean_image = sum_over_ranks(image.sum(0), kernel) / num_rows
        mean_text = sum_over_ranks(text.sum(0), kernel) / num_rows
        uniform = 0.5 * scale * (image @ mean_text + text @ mean_image)
        per_sample = per_sample + label_smoothing * (positive - uniform)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, stats.top1)


@full_precision
def info_nce(
    query: Tensor,
    key: Tensor,
    scale: Tensor | float,
    *,
    hard_negatives: Tensor | None = None,
    queue: Tensor | None = None,
    mask: Spec | None = None,
    in_batch: bool = True,
    own_hard_only: bool = False,
    query_negatives: bool = False,
    hard_logit: float = 0.0,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
    decoupled: bool = False,
    **kernel: Unpack[KernelOptions],
) -> LossOutput:
    """One positive per query against in-batch, hard and queued negatives in one softmax.

        s_ij = scale * <query_i, key_j>,   p_i = scale * (<query_i, key_i> - margin)
        L = mean_i [log(exp(p_i) + sum_{negatives} exp(s_ij)) - p_i]

    Source: van den Oord et al. 2018, equation 4, arXiv 1807.03748; margin: Yang et al. 2019,
    equation 4, arXiv 1902.08564; hard negatives and their logit: Gao et al. 2021, equation 5,
    arXiv 2104.08821; decoupled: Yeh et al. 2022, equation 6, arXiv 2110.06848.

    Args:
        query: (N, D).
        key: (N, D), row i is the positive of query i.
        scale: > 0, multiplies the similarities (1 / temperature).
        hard_negatives: (N, D) or (N, K, D), mined for each row; negatives of every row.
        queue: (M, D) further negatives, no gradient, never gathered.
        mask: pairs to include (ids, guide, threshold) or to bias (hardness). Its columns are
            [keys (N); hard negatives (N * K, row-major); queue (M)]. Positives are always included.
        in_batch: whether the keys of other rows are negatives.
        own_hard_only: a row sees only its own hard negatives (these are then not masked).
        query_negatives: whether other queries are negatives too (not masked).
        hard_logit: added to the logits of a row's own hard negatives (log alpha).
        margin: >= 0, subtracted from the positive similarity (additive margin).
        label_smoothing: in [0, 1), spread evenly over keys, hard negatives and queue.
        decoupled: leave `exp(p_i)` out of the sum; a row without negatives then has loss 0.
        **kernel: see `KernelOptions`.

    Returns:
        Mean over rows; hits: no included key, hard negative or queue entry scores higher than the
        positive.

    Raises:
        ValueError: shapes that do not fit; no negatives at all; options that do not combine.

    Distributed: gathers negatives if a `group` is given, else local; a queue is never gathered.

    >>> query, key = torch.eye(2), torch.eye(2)
    >>> info_nce(query, key, scale=torch.tensor(3.0).log()).loss.exp()  # (3 + 1) / 3
    tensor(1.3333)
    """
    check_pair(query, key)
    scale = as_scale(scale)
    hard = None if hard_negatives is None else _per_row(query, hard_negatives)
    pools = [] if hard is None or own_hard_only else [hard.flatten(0, 1)]
    if not (in_batch or query_negatives or hard is not None or queue is not None):
        raise ValueError("no negatives: in_batch is False and nothing else is given")
    shifted = bool(decoupled or margin or hard_logit or own_hard_only or query_negatives)
    _check_options(label_smoothing, shifted, hard_logit if pools else 0.0, mask)
    if not (shifted or (label_smoothing and not in_batch)):
        keys = candidates(query, key, hard, queue)
        if in_batch and mask is None and runs_plain(query, keys, "one-way", kernel):
            return equations.info_nce(query, keys, scale, label_smoothing)
    if not (shifted or label_smoothing):
        fused = _fused(query, key, keys, scale, mask, in_batch, kernel)
        if fused is not None:
            return fused
    if hard is not None and pools and hard_logit:
        mask = _own_hard(hard, queue, kernel)  # added below, with their logit
    score = scale * (query * key).sum(-1)
    positive = score - scale * margin
    sums, hits = _sweeps(query, key, pools, queue, scale, mask, in_batch, kernel)
    if hard is not None and (own_hard_only or hard_logit):
        hard_logits = scale * (query[:, None] * hard).sum(-1)  # (N, K)
        sums.append((hard_logits + hard_logit).logsumexp(-1))
        hits = hits & (score >= hard_logits.amax(-1))
    if query_negatives:
        sums.append(sweep(query, query, scale, ExcludeSelf(), **kernel).row_lse)
    gap = joint_log_sum(sums) - positive
    per_sample = (
        torch.where(gap.isneginf(), 0, gap) if decoupled else F.softplus(gap, threshold=50.0)
    )
    if label_smoothing:
        blocks = [key, *pools] if in_batch else pools
        uniform = _mean_logit(query, blocks, queue, scale, None if in_batch else score, kernel)
        per_sample = per_sample + label_smoothing * (score - uniform)
    return LossOutput(mean_loss(per_sample, kernel), per_sample, hits)


def candidates(query: Tensor, key: Tensor, hard: Tensor | None, queue: Tensor | None) -> Tensor:
    """Concatenate keys (N), hard negatives (N * K, row-major) and the queue, without gradient.

    Raises:
        ValueError: hard negatives or a queue that do not fit the (N, D) queries.
    """
    if hard is None and queue is None:
        return key
    parts = [key]
    if hard is not None:
        parts.append(hard if hard.shape == query.shape else _per_row(query, hard).flatten(0, 1))
    if queue is not None:
        check_pair(query, queue, same_rows=False, names="query, queue")
        parts.append(queue.detach())
    return torch.cat(parts)


def _check_options(
    label_smoothing: float, shifted: bool, hard_logit: float, mask: Spec | None
) -> None:
    """Raise ValueError for options whose combination is undefined."""
    if hard_logit and mask is not None:
        raise ValueError("hard_logit does not combine with a mask over shared hard negatives")
    if label_smoothing and (shifted or mask is not None):
        raise ValueError(
            "label_smoothing spreads over keys, hard negatives and queue alike: it does not combine"
            " with mask, decoupled, margin, hard_logit, own_hard_only or query_negatives"
        )


def _fused(
    query: Tensor,
    key: Tensor,
    keys: Tensor,
    scale: Tensor | float,
    mask: Spec | None,
    in_batch: bool,
    kernel: KernelOptions,
) -> LossOutput | None:
    """Loss on one process whose forward pass computes the gradient; None if it has no such form."""
    spec = Diagonal() & ExcludePositive()
    if not in_batch:  # keys of other rows are no negatives
        spec = spec & _after(len(key), keys)
    spec = spec if mask is None else spec & mask
    rows = info_nce_rows(query, keys, scale, spec, join=True, top1=True, **kernel)
    if rows is None or rows.top1 is None:
        return None
    return LossOutput(rows.total / len(query), rows.per_row, rows.top1)


def _sweeps(
    query: Tensor,
    key: Tensor,
    pools: list[Tensor],
    queue: Tensor | None,
    scale: Tensor | float,
    mask: Spec | None,
    in_batch: bool,
    kernel: KernelOptions,
) -> tuple[list[Tensor], Tensor]:
    """Log-sums (N,) over the negatives in columns, and whether the positive scores highest.

    One process concatenates keys, hard negatives and queue for a single sweep. On several ranks the
    queue, which is not gathered, takes a second sweep.
    """
    sums: list[Tensor] = []
    hits = torch.ones(query.shape[0], dtype=torch.bool, device=query.device)
    if queue is not None:
        check_pair(query, queue, same_rows=False, names="query, queue")
    fixed = [] if queue is None else [queue.detach()]
    num_own = sum(part.shape[0] for part in (key, *pools))
    jobs = [([*pools, *fixed], mask, in_batch, kernel)]
    if fixed and process_group(kernel)[0]:
        first = None if mask is None else slice_keys(mask, 0, num_own)
        second = None if mask is None else map_side(mask, "k", lambda x: _without(x, key, num_own))
        jobs = [(pools, first, in_batch, kernel), (fixed, second, False, local(kernel))]
    for others, part, with_keys, options in jobs:
        if not (with_keys or others):
            continue
        columns = torch.cat([key, *others]) if others else key
        spec = _positives(query.shape[0], columns, options) & ExcludePositive()
        if not with_keys:
            spec = spec & _after(len(key), columns)
        spec = spec if part is None else spec & part
        stats = sweep(query, columns, scale, spec, top1=True, **options)
        sums.append(stats.row_lse)
        hits = hits & stats.top1
    return sums, hits


def _after(count: int, columns: Tensor) -> Spec:
    """Include columns from `count` on; positives in earlier columns remain."""
    return Valid(key=torch.arange(len(columns), device=columns.device) >= count)


def _without(columns: Tensor, key: Tensor, num_own: int) -> Tensor:
    """Drop the hard negatives from column data of [keys; hard negatives; queue]."""
    return torch.cat([columns[: key.shape[0]], columns[num_own:]])


def _positives(num_rows: int, columns: Tensor, kernel: KernelOptions) -> Spec:
    """A spec whose positive of row i is local column i."""
    if len(columns) == num_rows:
        return Diagonal()
    places = torch.arange(num_rows, device=columns.device)
    return Index(places + first_row(columns, kernel)) if process_group(kernel)[0] else Diagonal()


def _own_hard(hard: Tensor, queue: Tensor | None, kernel: KernelOptions) -> Spec:
    """Exclude a row's own hard negatives (N, K, D) from [keys; hard negatives; queue]."""
    rows = torch.arange(len(hard), device=hard.device) + first_row(hard, kernel)
    no_owner = rows.new_full((1,), -1)
    queued = 0 if queue is None else len(queue)
    owners = [
        no_owner.expand(len(hard)),
        rows.repeat_interleave(hard.shape[1]),
        no_owner.expand(queued),
    ]
    return Exclude(rows, torch.cat(owners), keep_positive=False)


def _per_row(query: Tensor, hard_negatives: Tensor) -> Tensor:
    """(N, K, D) from (N, D) or (N, K, D)."""
    shaped = hard_negatives[:, None] if hard_negatives.ndim == 2 else hard_negatives
    if shaped.ndim != 3 or (shaped.shape[0], shaped.shape[2]) != tuple(query.shape):
        raise ValueError(
            "hard_negatives must be (N, D) or (N, K, D) for a query of (N, D); got shapes "
            f"{tuple(hard_negatives.shape)} and {tuple(query.shape)}"
        )
    return shaped


def _mean_logit(
    query: Tensor,
    keys: list[Tensor],
    queue: Tensor | None,
    scale: Tensor | float,
    lone: Tensor | None,
    kernel: KernelOptions,
) -> Tensor:
    """(N,) mean logit over all candidates; a mean of products is one product with the mean.

    Args:
        query: (N, D).
        keys: (M, D) each, sharded like the batch.
        queue: (M, D), not sharded, or None.
        scale: multiplies the similarities.
        lone: (N,) logit of the positive if no block contains it.
        kernel: options of the loss.
    """
    total, count = torch.zeros_like(query[0]), torch.zeros_like(query[0, 0])
    for block in keys:
        total = total + sum_over_ranks(block.sum(0), kernel)
        count = count + count_rows(block.shape[0], query, kernel)
    if queue is not None:
        total, count = total + queue.detach().sum(0), count + queue.shape[0]
    logits = scale * (query @ total)
    return logits / count if lone is None else (logits + lone) / (count + 1)
