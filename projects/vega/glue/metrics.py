"""GLUE: metrics of the nine tasks, the average of its leaderboard, and rows to compare with."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr

from common.evaluation.text.classes import score_classes

# metrics that a task is scored by; the score is their mean
METRICS: dict[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
    "ax": ("matthews",),
}
TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
HUMAN = {"sst2": 97.8, "wnli": 95.9}  # GLUE's leaderboard, row of the human baselines
# public leaderboard of January 2022 (gluebenchmark.com); of double metrics both
_COLUMNS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "mnli_mm", "qnli", "rte", "wnli", "ax")
_ROWS = {
    "Vega v1": "73.8 97.9 94.5/92.6 93.5/93.1 76.7/91.1 92.1 91.9 96.7 92.4 97.9 51.4",
    "Turing ULR v6": "73.3 97.5 94.2/92.3 93.5/93.1 76.4/90.9 92.5 92.1 96.7 93.6 97.9 55.4",
    "Turing NLR v5": "72.6 97.6 93.8/91.7 93.7/93.3 76.4/91.1 92.6 92.4 97.9 94.1 95.9 57.0",
    "DeBERTa + CLEVER": "74.7 97.6 93.3/91.1 93.4/93.1 76.5/91.0 92.1 91.8 96.7 93.2 96.6 53.3",
    "ERNIE": "75.5 97.8 93.9/91.8 93.0/92.6 75.2/90.9 92.3 91.7 97.3 92.6 95.9 51.7",
    "DeBERTa / TuringNLRv4": (
        "71.5 97.5 94.0/92.0 92.9/92.6 76.2/90.8 91.9 91.6 99.2 93.2 94.5 53.2"
    ),
    "T5 11B": "71.6 97.5 92.8/90.4 93.1/92.8 75.1/90.6 92.2 91.9 96.9 92.8 94.5 53.1",
}


def glue_metrics(task: str, predicted: ArrayLike, gold: ArrayLike) -> dict[str, float]:
    """The metrics of a task, in [0, 1] or [-1, 1], and ``score``, their mean.

    Source: Wang et al. 2019, "GLUE", section 3, arXiv 1804.07461.

    Args:
        task: see `METRICS`.
        predicted: (N,) classes, or scores of "stsb".
        gold: (N,) the same.

    Raises:
        ValueError: an unknown task, nothing to score, or lengths that differ.

    >>> glue_metrics("mrpc", [1, 1, 0], [1, 0, 0])["score"].__round__(4)
    0.6667
    """
    if task not in METRICS:
        raise ValueError(f"no GLUE task '{task}'; there are {', '.join(METRICS)}")
    predictions, labels = np.asarray(predicted), np.asarray(gold)
    if predictions.ndim != 1 or predictions.shape != labels.shape or not len(labels):
        raise ValueError(f"predictions {predictions.shape} and labels {labels.shape} do not fit")
    if task == "stsb":
        same = np.ptp(predictions) == 0 or np.ptp(labels) == 0  # nothing is told apart
        scores = {
            name: 0.0 if same else float(correlation(predictions, labels).statistic)
            for name, correlation in (("pearson", pearsonr), ("spearman", spearmanr))
        }
    else:
        classes = 3 if task in ("mnli", "ax") else 2
        scores = score_classes(
            predictions, labels, max(classes, int(max(predictions.max(), labels.max())) + 1)
        )
        if task == "ax":
            from sklearn.metrics import matthews_corrcoef

            scores["matthews"] = float(matthews_corrcoef(labels, predictions))
    official = {name: scores[name] for name in METRICS[task]}
    return {**official, "score": float(np.mean(list(official.values())))}


def glue_average(scores: Mapping[str, float]) -> float:
    """Macro mean over the nine tasks.

    The two parts of MNLI make one, the diagnostic set counts nothing.

    Source: Wang et al. 2019, section 3, arXiv 1804.07461.

    Args:
        scores: task -> its score, the mean of its metrics; "mnli_mm" alongside "mnli" is optional.

    Raises:
        ValueError: a task that is missing.
    """
    missing = [task for task in TASKS if task not in scores]
    if missing:
        raise ValueError(f"GLUE's average needs all nine tasks; missing: {', '.join(missing)}")
    per_task = {task: float(scores[task]) for task in TASKS}
    if "mnli_mm" in scores:
        per_task["mnli"] = (scores["mnli"] + scores["mnli_mm"]) / 2
    return sum(per_task.values()) / len(per_task)


def leaderboard() -> dict[str, dict[str, float]]:
    """System -> task -> score (per cent) of the public leaderboard in January 2022."""
    rows = {}
    for name, row in _ROWS.items():
        cells = [[float(x) for x in cell.split("/")] for cell in row.split()]
        rows[name] = {task: sum(c) / len(c) for task, c in zip(_COLUMNS, cells, strict=True)}
    return rows


def best_tasks(scores: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The nine tasks, of those that `own` has, where no other system is better.

    Args:
        scores: task -> score.
        others: system -> task -> score; a system without a task is passed over there.
    """
    whole = {name: _merged(row) for name, row in others.items()}
    mine = _merged(scores)
    return [
        task
        for task in TASKS
        if task in mine and all(mine[task] >= row[task] for row in whole.values() if task in row)
    ]


def _merged(row: Mapping[str, float]) -> dict[str, float]:
    """One score of MNLI."""
    merged = dict(row)
    if "mnli" in merged and "mnli_mm" in merged:
        merged["mnli"] = (merged["mnli"] + merged.pop("mnli_mm")) / 2
    return merged
