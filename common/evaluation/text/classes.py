"""Metrics of text classification as GLUE and SuperGLUE report them."""

import numpy as np
from numpy.typing import ArrayLike


def score_classes(predicted: ArrayLike, labels: ArrayLike, num_classes: int) -> dict[str, float]:
    """Accuracy and macro F1; of two classes also F1 of class 1 and Matthews' correlation.

    A class that neither occurs nor is predicted is left out of the mean of macro F1.

    Source: Wang et al. 2019, "GLUE", section 3, arXiv 1804.07461, and "SuperGLUE", section 4, arXiv
    1905.00537.

    Args:
        predicted: (N,) classes.
        labels: (N,) classes.
        num_classes: C.

    Raises:
        ValueError: nothing to score, or lengths that differ.

    >>> score_classes([1, 1, 0, 0], [1, 0, 0, 0], 2)["f1"].__round__(4)
    0.6667
    """
    classes, gold = np.asarray(predicted), np.asarray(labels)
    if classes.ndim != 1 or classes.shape != gold.shape or not len(gold):
        raise ValueError(f"predictions {classes.shape} and labels {gold.shape} do not fit")
    scores = [_f1(classes == c, gold == c) for c in range(num_classes)]
    defined = [score for score in scores if score is not None]
    metrics = {"accuracy": float((classes == gold).mean()), "macro_f1": float(np.mean(defined))}
    if num_classes == 2:
        metrics["f1"] = scores[1] or 0.0
        a, b = classes.astype(float) - classes.mean(), gold.astype(float) - gold.mean()
        norm = np.sqrt((a**2).sum() * (b**2).sum())
        metrics["matthews"] = float((a * b).sum() / norm) if norm > 0 else 0.0
    return metrics


def _f1(predicted: np.ndarray, gold: np.ndarray) -> float | None:
    both = predicted.sum() + gold.sum()
    return float(2 * (predicted & gold).sum() / both) if both else None
