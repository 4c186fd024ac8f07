"""What the runs of an arm measured: metrics of each seed, and scores of each test item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from common.config import UserError, nearest
from common.evaluation.resampling import Scores

DIGITS = 5  # significant digits of an item: what is judged is what the values file keeps


@dataclass(frozen=True)
class ArmValues:
    """An arm or a baseline, as it is judged and as ``results/<slug>.values.json.gz`` keeps it.

    Attributes:
        seeds: of its runs; a baseline has one run.
        metrics: per name a value of each run; None where it is undefined.
        seconds: wall time of each run.
        items: per metric and run its test sets, each a list with one value per item, or
            ``{"predicted": [...], "gold": [...]}`` for a rank correlation; no entry where a run
            saved none.
    """

    seeds: list[int]
    metrics: dict[str, list[float | None]]
    seconds: list[float | None]
    items: dict[str, list[list[Any]]] = field(default_factory=dict)

    def of(self, metric: str) -> list[float]:
        """A metric's value of each run.

        Raises:
            UserError: there is no such metric, or it is undefined in a run.
        """
        if metric not in self.metrics:
            raise UserError(f"no metric '{metric}'{nearest(metric, self.metrics)}")
        values = self.metrics[metric]
        for seed, value in zip(self.seeds, values, strict=True):
            if value is None:
                raise UserError(f"'{metric}' is undefined in the run with seed {seed}")
        return [value for value in values if value is not None]

    def mean(self, metric: str) -> float:
        """Mean of a metric over the runs."""
        return float(np.mean(self.of(metric)))

    def scores(self, metric: str) -> list[Scores] | None:
        """Scores on each test set; None where items are missing or differ between the runs."""
        if metric not in self.items:
            return None
        scores = []
        for sets in zip(*self.items[metric], strict=True):
            rows, gold = list(sets), None
            if all(isinstance(items, dict) for items in sets):
                if any(items["gold"] != sets[0]["gold"] for items in sets):
                    return None
                rows = [items["predicted"] for items in sets]
                gold = np.asarray(sets[0]["gold"], dtype=np.float64)
            if len({len(row) for row in rows}) != 1:
                return None
            scores.append(Scores(np.asarray(rows, dtype=np.float64), gold))
        return scores


class FinishedRun(Protocol):
    """A run with its metrics."""

    @property
    def seed(self) -> int:
        """Its seed."""

    @property
    def run_id(self) -> str:
        """Its name."""

    def metrics(self) -> dict[str, float]:
        """Its metrics.json."""

    def meta(self) -> dict[str, Any]:
        """Its meta.json."""

    def items(self, metric: str) -> list[Any] | None:
        """Items per test set, see `saved_items`."""


def values_of(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> ArmValues:
    """Values of finished runs of an arm, or of a baseline's one run.

    Args:
        runs: in the order of their seeds.
        metrics: those whose items are kept.

    Raises:
        UserError: an item is undefined.
    """
    measured = [run.metrics() for run in runs]
    items = {}
    for metric in metrics:
        saved = [run.items(metric) for run in runs]
        if all(sets is not None for sets in saved):
            items[metric] = [
                [_rounded(run, metric, test_set) for test_set in sets or []]
                for run, sets in zip(runs, saved, strict=True)
            ]
    return ArmValues(
        [run.seed for run in runs],
        {name: [metrics.get(name) for metrics in measured] for name in measured[0]},
        [run.meta().get("wall_seconds") for run in runs],
        items,
    )


def _rounded(run: FinishedRun, metric: str, items: Any) -> Any:
    if isinstance(items, Mapping):
        return {name: _rounded(run, metric, row) for name, row in items.items()}
    if any(value is None or not math.isfinite(value) for value in items):
        raise UserError(f"{run.run_id}: an item of '{metric}' is undefined")
    return [float(f"{value:.{DIGITS}g}") for value in items]
