"""The rank of one right item among all items, and what is read off it.

# B users, I items, column 0 of the scores is padding
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ranks = NDArray[np.int64]
# histories of a batch of users, oldest item first -> (B, I + 1) scores
Score = Callable[[Sequence[NDArray[np.int64]]], Tensor]


def target_ranks(scores: Tensor, targets: Tensor, masked: Tensor | None = None) -> Tensor:
    """Place of the right item among all, from 1; equal scores count against it.

    Args:
        scores: (B, I + 1); column 0 takes no part.
        targets: (B,) int64 in [1, I].
        masked: (B, L) int64, items that take no part (0: none); the right one always does.

    Returns:
        (B,) int64.

    Raises:
        ValueError: NaN among the scores of items; no comparison with it holds, so every rank were
            1.

    >>> target_ranks(torch.tensor([[9.0, 1.0, 3.0, 2.0]]), torch.tensor([3]))
    tensor([2])
    """
    num_bad = int(scores[:, 1:].isnan().any(1).sum())
    if num_bad:
        raise ValueError(
            f"scores: {num_bad} of {len(scores)} users have NaN; the encoder has diverged"
        )
    right = scores.gather(1, targets[:, None])
    ahead = scores >= right
    if masked is not None:
        ahead = ahead.scatter(1, masked, False)
    ahead[:, 0] = False
    return ahead.scatter(1, targets[:, None], True).sum(1)


def full_ranking(
    score: Score,
    histories: Sequence[NDArray[np.int64]],
    targets: NDArray[np.int64],
    *,
    mask_history: bool = False,
    batch_size: int = 512,
) -> Ranks:
    """Ranks of the right items of all users among all items; nothing is sampled.

    Args:
        score: see `Score`.
        histories: of every user, oldest item first, none empty.
        targets: (U,) the item that comes next.
        mask_history: leave out items that the user has taken before. The official protocol of
            sequential recommendation keeps them.
        batch_size: users of a call.

    Returns:
        (U,) int64, from 1.
    """
    ranks = []
    for start in range(0, len(targets), batch_size):
        batch = histories[start : start + batch_size]
        scores = score(batch)
        masked = None
        if mask_history:
            width = max(len(items) for items in batch)
            rows = [np.pad(items, (0, width - len(items))) for items in batch]
            masked = torch.from_numpy(np.stack(rows)).to(scores.device)
        right = torch.from_numpy(targets[start : start + batch_size]).to(scores.device)
        ranks.append(target_ranks(scores, right, masked).cpu().numpy())
    return np.concatenate(ranks)


def gains(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """NDCG@k of every user: 1 / log2(rank + 1) within the first k, else 0.

    >>> gains(np.array([1, 3, 11]), 10)
    array([1. , 0.5, 0. ])
    """
    return np.where(ranks <= k, 1 / np.log2(ranks + 1.0), 0.0)


def hits(ranks: Ranks, k: int) -> NDArray[np.float64]:
    """HR@k of every user (recall@k with one right item): whether it is among the first k."""
    return (ranks <= k).astype(np.float64)


def rank_metrics(ranks: Ranks, ks: Sequence[int] = (5, 10, 20)) -> dict[str, float]:
    """``hr_at_k``, ``ndcg_at_k`` and ``mrr_at_k``, means over users.

    >>> rank_metrics(np.array([3, 50]), [10])
    {'hr_at_10': 0.5, 'ndcg_at_10': 0.25, 'mrr_at_10': 0.16666666666666666}
    """
    metrics = {}
    for k in ks:
        metrics[f"hr_at_{k}"] = float(hits(ranks, k).mean())
        metrics[f"ndcg_at_{k}"] = float(gains(ranks, k).mean())
        metrics[f"mrr_at_{k}"] = float(np.where(ranks <= k, 1 / ranks, 0.0).mean())
    return metrics
