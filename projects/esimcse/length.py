"""How much an encoder knows of sentence length, and how much its similarities follow it.

Source of the motivation: Wu et al. 2022, section 1 (pairs of different length), arXiv 2109.04380.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from common.evaluation.text.sts import pair_cosine, partial_spearman, spearman

RIDGE = 1e-3  # penalty of the probe per sample, on standardised features


def word_counts(texts: Sequence[str]) -> np.ndarray:
    """Words between white space, (N,) float64."""
    return np.array([len(text.split()) for text in texts], dtype=np.float64)


def pair_bias(
    x: Tensor,
    y: Tensor,
    gold: ArrayLike,
    lengths: tuple[ArrayLike, ArrayLike],
    threshold: float = 3,
) -> dict[str, float]:
    """Whether similarity of a pair depends on the difference of its lengths.

    Args:
        x: (N, D) embeddings of the first sentences.
        y: (N, D) embeddings of the second sentences.
        gold: (N,) similarity scores.
        lengths: (N,) number of words, of the first and of the second sentences.
        threshold: absolute differences up to this are called similar.

    Returns:
        ``spearman_similar_length`` and ``spearman_different_length`` (each left out if fewer than
        two pairs are in the group), ``length_partial_correlation``: of the cosine and the absolute
        difference, given the gold score.
    """
    cosine, scores = pair_cosine(x, y).numpy(), np.asarray(gold, dtype=np.float64)
    difference = np.abs(np.subtract(*(np.asarray(n, dtype=np.float64) for n in lengths)))
    metrics = {"length_partial_correlation": partial_spearman(cosine, difference, scores)}
    groups = {"similar": difference <= threshold, "different": difference > threshold}
    for name, rows in groups.items():
        if rows.sum() >= 2:
            metrics[f"spearman_{name}_length"] = spearman(cosine[rows], scores[rows])
    return metrics


def length_r2(fit: tuple[Tensor, ArrayLike], test: tuple[Tensor, ArrayLike]) -> float:
    """R^2 of a ridge regression from unit embeddings to sentence length, on held-out sentences.

    Args:
        fit: embeddings (N, D) and lengths (N,).
        test: embeddings (M, D) and lengths (M,).

    Returns:
        1 - squared error / variance of the test lengths; at most 1, 0 for predicting their mean.

    Raises:
        ValueError: all test lengths are equal.
    """
    x, other = (torch.nn.functional.normalize(part[0].double(), dim=1) for part in (fit, test))
    y, target = (torch.as_tensor(np.asarray(part[1]), dtype=torch.float64) for part in (fit, test))
    total = (target - target.mean()).square().sum()
    if total == 0:
        raise ValueError("all test sentences have the same length: R^2 is undefined")
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-12)
    x, other = (x - mean) / std, (other - mean) / std
    gram = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ (y - y.mean()))
    return float(1 - (target - other @ weight - y.mean()).square().sum() / total)
