"""Pairs that belong together or not, told apart by one threshold on a score."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def max_f1(scores: ArrayLike, labels: Sequence[bool] | ArrayLike) -> dict[str, float]:
    """The best F1 over all thresholds, with precision, recall and the threshold at that point.

    A pair counts as positive if its score is at least the threshold; candidates are the scores.
    Of equal values the lowest threshold wins.

    Args:
        scores: (N,) finite.
        labels: (N,) true for positive pairs, at least one.

    Returns:
        ``f1``, ``precision``, ``recall``, ``threshold``.

    Raises:
        ValueError: no positive pair, scores with NaN or infinity, or shapes that differ.

    >>> max_f1([0.9, 0.8, 0.3], [True, False, True])["f1"]
    0.8
    """
    values, positive = _checked(scores, labels)
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(values[order][1:] != values[order][:-1], True)  # ends of runs of equal scores
    hits, taken = hits[last], np.flatnonzero(last) + 1
    f1 = 2 * hits / (taken + positive.sum())
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return {
        "f1": float(f1[best]),
        "precision": float(hits[best] / taken[best]),
        "recall": float(hits[best] / positive.sum()),
        "threshold": float(values[order][last][best]),
    }


def roc_auc_items(scores: ArrayLike, labels: Sequence[bool] | ArrayLike) -> list[float]:
    """Share of negative pairs that each positive pair beats, ties by half: their mean is ROC-AUC.

    Args:
        scores: (N,) finite.
        labels: (N,) true for positive pairs; at least one of each kind.

    Raises:
        ValueError: pairs of one kind only, scores with NaN or infinity, or shapes that differ.

    >>> roc_auc_items([0.9, 0.8, 0.3], [True, False, True])
    [1.0, 0.0]
    """
    values, positive = _checked(scores, labels)
    count = len(values) - int(positive.sum())
    if not count:
        raise ValueError("there is no negative pair")
    among_all, among_own = rankdata(values)[positive], rankdata(values[positive])
    return [float(x) for x in (among_all - among_own) / count]


def pair_metrics(scores: ArrayLike, labels: Sequence[bool] | ArrayLike) -> dict[str, float]:
    """All figures of scored pairs.

    Returns:
        Those of `max_f1`; ``auc``; ``accuracy``, the best over thresholds; ``positive`` and
        ``negative``, mean scores, and ``ratio`` of the two (absent where the second is 0).

    Raises:
        ValueError: see `roc_auc_items`.
    """
    values, positive = _checked(scores, labels)
    best = max_f1(values, positive)
    best["auc"] = float(np.mean(roc_auc_items(values, positive)))
    best["accuracy"] = _max_accuracy(values, positive)
    best["positive"] = float(values[positive].mean())
    best["negative"] = float(values[~positive].mean())
    if best["negative"]:
        best["ratio"] = best["positive"] / best["negative"]
    return best


def _max_accuracy(values: np.ndarray, positive: np.ndarray) -> float:
    order = np.argsort(-values, kind="stable")
    right = (~positive).sum() + np.cumsum(np.where(positive[order], 1, -1))
    last = np.append(values[order][1:] != values[order][:-1], True)
    return float(max(right[last].max(), (~positive).sum()) / len(values))


def _checked(
    scores: ArrayLike, labels: Sequence[bool] | ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if values.ndim != 1 or values.shape != positive.shape:
        raise ValueError(f"need one label a score, got {values.shape} and {positive.shape}")
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(f"{bad} of {len(values)} scores are NaN or infinite")
    if not positive.any():
        raise ValueError("there is no positive pair")
    return values, positive
