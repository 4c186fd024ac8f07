"""Metrics of sentence-pair tasks as GLUE reports them, and what they are per pair."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr

from common.data.text.pairs.tasks import Kind


def score_pair_task(
    logits: ArrayLike, labels: ArrayLike, kind: Kind, thresholds: Sequence[float] = (0.5,)
) -> dict[str, float]:
    """Accuracy; accuracy and F1 of class 1; or Pearson's and Spearman's correlation.

    A pair of a binary task counts as positive if ``sigmoid(logit) > threshold``. Beyond the first
    threshold the names carry it: ``f1_at_0.3``.

    Source: Wang et al. 2019, "GLUE", section 3, arXiv 1804.07461.

    Args:
        logits: (N, C) of classes, (N, 1) else; predictions of a regression are not clamped.
        labels: (N,) classes or raw scores.
        kind: of the task.
        thresholds: probabilities, at least one.

    Raises:
        ValueError: shapes that do not fit.

    >>> score_pair_task([[2.0], [-1.0], [0.5]], [1, 0, 0], "binary")["accuracy"].__round__(4)
    0.6667
    """
    values, gold = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if (
        values.ndim != 2
        or gold.shape != values.shape[:1]
        or (kind != "multiclass" and values.shape[1] != 1)
    ):
        raise ValueError(f"{kind}: logits {values.shape} and labels {gold.shape} do not fit")
    if kind == "regression":
        if np.ptp(values) == 0 or np.ptp(gold) == 0:  # nothing is told apart
            return {"pearson": 0.0, "spearman": 0.0}
        linear, ranks = (f(values[:, 0], gold).statistic for f in (pearsonr, spearmanr))
        return {"pearson": float(linear), "spearman": float(ranks)}
    if kind == "multiclass":
        return {"accuracy": float((values.argmax(1) == gold).mean())}
    metrics = {}
    for place, threshold in enumerate(thresholds):
        predicted, suffix = _positive(values, threshold), f"_at_{threshold:g}" if place else ""
        metrics[f"accuracy{suffix}"] = float((predicted == (gold == 1)).mean())
        hits, both = (predicted & (gold == 1)).sum(), predicted.sum() + (gold == 1).sum()
        metrics[f"f1{suffix}"] = float(2 * hits / both) if both else 0.0
    return metrics


def main_score(metrics: dict[str, float], kind: Kind) -> float:
    """What selects a checkpoint: accuracy, the best F1 over the thresholds, or Pearson's r.

    Source: Barkan et al. 2020, released code, arXiv 1908.05161.
    """
    if kind == "multiclass":
        return metrics["accuracy"]
    if kind == "regression":
        return metrics["pearson"]
    return max(value for name, value in metrics.items() if name.startswith("f1"))


def predictions(logits: ArrayLike, kind: Kind, threshold: float = 0.5) -> np.ndarray:
    """(N,) classes, or the scores themselves of a regression."""
    values = np.asarray(logits, dtype=np.float64)
    if kind == "multiclass":
        return np.asarray(values.argmax(1))
    return values[:, 0] if kind == "regression" else _positive(values, threshold).astype(np.int64)


def logit_r2(student: ArrayLike, teacher: ArrayLike) -> float:
    """Share of the variance of a teacher's logits that a student's explain, all classes together.

    >>> logit_r2([[1.0], [3.0]], [[1.0], [3.0]])
    1.0
    """
    s, t = np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)
    return float(1 - ((s - t) ** 2).sum() / ((t - t.mean(0)) ** 2).sum())


def relative_degradation(teacher: float, student: float) -> float:
    """(teacher - student) / teacher.

    >>> relative_degradation(0.8, 0.76)
    0.050000000000000044
    """
    return (teacher - student) / teacher


def _positive(values: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) whether the probability is above the threshold."""
    probability = 1 / (1 + np.exp(-np.clip(values[:, 0], -700, 700)))
    positive: np.ndarray = probability > threshold
    return positive
