"""Image-text matching: which pairs a binary classifier is trained on, and its loss.

# B images, K texts each, image-major; M = B * K texts
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

PositiveChoice = Literal["aligned_least", "uniform", "least_similar"]
FLOOR = 1e-5  # no weight of a candidate is zero


@torch.no_grad()
def choose_positive(scores: Tensor, num_texts: int, choice: PositiveChoice) -> Tensor:
    """One of the K texts of every image, those that the model aligns worst more often.

        p_ik ~ max(w) + 1e-5 - w_ik,   w = softmax over all texts of the image's scores

    Source: Nie et al. 2024, section 3.3 and its released code, arXiv 2406.18254.

    Args:
        scores: (B, B * K) similarities of images and texts over the temperature.
        num_texts: K.
        choice: "aligned_least" as above, "least_similar" with w = scores, or "uniform".

    Returns:
        (B,) int64 in [0, K).

    Raises:
        ValueError: an unknown choice.

    Distributed: local.
    """
    if choice not in get_args(PositiveChoice):
        raise ValueError(f"choice must be one of {get_args(PositiveChoice)}, got {choice!r}")
    scores = scores.float()  # in half precision 1 + 1e-5 - 1 is 0: no text could be drawn
    weights = scores.softmax(1) if choice == "aligned_least" else scores
    positives = weights.view(len(scores), len(scores), num_texts).diagonal().T  # (B, K)
    odds = torch.ones_like(positives) if choice == "uniform" else weights.max() + FLOOR - positives
    return torch.multinomial(odds, 1)[:, 0]


@torch.no_grad()
def hard_negatives(scores: Tensor, query_ids: Tensor, candidate_ids: Tensor) -> Tensor:
    """For every query a candidate of another image, similar ones more often.

        p_qc ~ softmax(scores)_qc + 1e-5,  0 where the ids are equal

    Source: Li et al. 2021, "ALBEF", section 3.2, arXiv 2107.07651.

    Args:
        scores: (Q, C) similarities over the temperature.
        query_ids: (Q,) int64, the image of each query.
        candidate_ids: (C,) int64.

    Returns:
        (Q,) int64 in [0, C).

    Raises:
        ValueError: a query without a candidate of another image.

    Distributed: local.

    >>> scores, ids = torch.zeros(2, 2), torch.arange(2)
    >>> hard_negatives(scores, ids, ids).tolist()
    [1, 0]
    """
    other = query_ids[:, None] != candidate_ids[None]
    if not bool(other.any(1).all()):
        raise ValueError("matching needs two different images in every batch of a process")
    weights = torch.where(other, scores.float().softmax(1) + FLOOR, 0)
    return torch.multinomial(weights, 1)[:, 0]


def matching_loss(positive: Tensor, *negative: Tensor) -> Tensor:
    """Two-way cross-entropy of pairs that match and pairs that do not.

    Source: Li et al. 2021, equation 4, arXiv 2107.07651.

    Args:
        positive: (P, 2) logits, index 1 says that image and text match.
        negative: (N, 2) logits each.

    Distributed: local.

    >>> matching_loss(torch.zeros(1, 2), torch.zeros(2, 2)).round(decimals=4)  # log 2
    tensor(0.6931)
    """
    logits = torch.cat([positive, *negative]).float()
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[: len(positive)] = 1
    return F.cross_entropy(logits, labels)
