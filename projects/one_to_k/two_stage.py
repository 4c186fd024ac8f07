"""Two-stage retrieval: cosine for all pairs, a costly score for the best of them.

# Q queries, G items
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from common.evaluation.matrices import as_matrix

NEVER = -100.0  # score of what the second stage does not look at

# (P, 2) pairs of query and item -> (P,) scores
ScorePairs = Callable[[Tensor], Tensor]


def rescored(scores: Tensor, score_pairs: ScorePairs, k: int, *, batch_size: int = 256) -> Tensor:
    """Scores of the second stage for the k best items of each query, -100 for the others.

    Source: Li et al. 2021, "ALBEF", section 5 (k candidates, then the matching head),
    arXiv 2107.07651.

    Args:
        scores: (Q, G) of the first stage, on any device; so are the pairs and the result.
        score_pairs: second stage; its scores may be on another device.
        k: items of a query that are scored again, at most G are.
        batch_size: pairs of a call.

    Raises:
        ValueError: scores of the second stage with NaN or infinity.

    >>> rescored(torch.eye(2), lambda pairs: pairs.sum(1).float(), k=1)
    tensor([[   0., -100.],
            [-100.,    2.]])
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    queries = torch.arange(len(scores), device=scores.device)[:, None].expand_as(best)
    pairs = torch.stack([queries, best], -1).reshape(-1, 2)
    again = torch.full_like(scores, NEVER)
    parts = [_finite(score_pairs(part)).to(again) for part in torch.split(pairs, batch_size)]
    again[pairs[:, 0], pairs[:, 1]] = torch.cat(parts)
    return again


def best_ranks(scores: Tensor, relevance: Sequence[Sequence[int]]) -> Tensor:
    """Rank of each query's best relevant item, from 1; an irrelevant one that ties comes before it.

    Args:
        scores: (Q, G).
        relevance: relevant items of every query, at least one each.

    Raises:
        ValueError: scores with NaN or infinity, which would count as the first rank.

    >>> best_ranks(torch.tensor([[3.0, 2.0, 2.0]]), [[1]]).tolist()
    [3]
    """
    scores = as_matrix(scores, "scores")
    relevant = torch.zeros_like(scores, dtype=torch.bool)
    for query, items in enumerate(relevance):
        relevant[query, list(items)] = True
    best = scores.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~relevant).sum(1)


def _finite(scores: Tensor) -> Tensor:
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("the second stage gave NaN or infinity; its model has diverged")
    return scores
