"""The mask of stage 3 as a matrix, and the released loss on it.

# B rows, 2N columns: the positives of all ranks, then their hard negatives
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.collectives import all_gather_no_grad, row_offset
from common.distributed.process import default_group
from common.losses.output import LossOutput, embeddings, full_precision

CLAMP = 1e-7  # least 1 - p in the logarithm


@torch.no_grad()
@full_precision  # half precision has no cosine between 0.9492 and 0.9531
def keep_mask(
    anchor: Tensor, positive: Tensor, negative: Tensor, phi: float, offset: int = 0
) -> Tensor:
    """Which columns are negatives: cosine of the mask model at most phi; the own positive always.

        m_ij = 1[cos(P(x_i), P(x_j)) <= phi]

    Source: Wang et al. 2024, stage 3, arXiv 2310.10962.

    Args:
        anchor: (B, D) vectors of the mask model.
        positive: (N, D), those of all ranks.
        negative: (N, D), foreign and own hard negatives are masked alike.
        phi: threshold on the cosine.
        offset: place of the first row's positive.

    Returns:
        (B, 2N) bool.
    """
    columns = F.normalize(torch.cat([positive, negative]).float(), dim=1)
    keep = F.normalize(anchor.float(), dim=1) @ columns.T <= phi
    diagonal = torch.arange(len(anchor), device=keep.device)
    keep[diagonal, diagonal + offset] = True  # m+_ii = 1
    return keep


@full_precision
def official_bce(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    keep: Tensor,
    temperature: float = 0.05,
    offset: int = 0,
) -> LossOutput:
    """Binary cross-entropy on softmax probabilities, as released.

        p = softmax(m * s / tau),   L = mean over all entries of -y log p - (1 - y) log(1 - p)

    A masked logit is multiplied by 0, so that the entry still counts with exp(0) = 1.

    Source: Wang et al. 2024, released code (cl_masked_forward), arXiv 2310.10962.

    Args:
        anchor: (B, D) raw embeddings.
        positive: (N, D), row ``offset + i`` belongs to anchor i.
        negative: (N, D) hard negatives.
        keep: (B, 2N) bool, see `keep_mask`.
        temperature: > 0.
        offset: place of the first row's positive.

    Returns:
        Mean over all entries; per row the mean over its entries; hits: no kept column beats the
        own.
    """
    cosine = embeddings(anchor, True) @ embeddings(torch.cat([positive, negative]), True).T
    logits = cosine / temperature * keep
    p = logits.softmax(dim=1)
    diagonal = torch.arange(len(anchor), device=p.device)
    y = torch.zeros_like(p)
    y[diagonal, diagonal + offset] = 1
    other = (1 - p).clamp(min=CLAMP).log()
    rows = -(y * logits.log_softmax(dim=1) + (1 - y) * other).mean(dim=1)
    best = cosine.masked_fill(~keep, -torch.inf).argmax(dim=1)
    return LossOutput(rows.mean(), rows, best == diagonal + offset)


def masks_of_all(guides: tuple[Tensor, ...], phi: float, gather: bool = True) -> Tensor:
    """`keep_mask` (B, 2N) of the own rows against the columns of all ranks."""
    anchor, positive, negative = guides
    if not gather:
        return keep_mask(anchor, positive, negative, phi)
    offset = row_offset(len(anchor), default_group())
    columns = all_gather_no_grad(positive), all_gather_no_grad(negative)
    return keep_mask(anchor, *columns, phi=phi, offset=offset)


def masked_shares(keep: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Shares of masked columns among those of other rows, and among the own hard negatives.

    Args:
        keep: see `keep_mask`.
        offset: place of the first row's positive.
    """
    diagonal = torch.arange(len(keep), device=keep.device)
    total = keep.shape[1] // 2
    dropped = ~keep
    hard = dropped[diagonal, diagonal + offset + total].float()
    foreign = (dropped.sum() - hard.sum()) / max(1, len(keep) * (2 * total - 2))
    return foreign, hard.mean()
