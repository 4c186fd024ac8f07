"""Metrics of smoke runs as they are pinned, and how others are compared with them."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

from tests.smoke import losses_of, metrics_of

FILE = Path(__file__).with_name("smoke.json")
TOLERANCE = 1e-3  # relative; below SMALL absolute: another processor rounds otherwise
SMALL = 1e-3
DIGITS = 6

# what another processor changes by more than the tolerance (seen with its plainest instructions,
# ATEN_CPU_CAPABILITY=default): "project metric" -> why
NOT_PINNED = {
    "seconds|speedup|break_even|per_second|memory": "time and memory of the machine",
    "^ccp (untrained_.*|other_language_share)": "ranks of nearly equal vectors",
    "^cosmo mrr": "a rank among twelve",
    "^cwcl structure_spearman": "ranks of nearly equal similarities",
    "^defsent_plus (round_2|.*sts|alignment|uniformity|ica)": "the step with the best ranks is kept",
    "^hydra (pair|subspace)_precision|^hydra z_": "a gate opens or not",
    "^sepclr (common|joint)_entropy|^sepclr (kernel|salient)": "densities of few points",
    "^trend untrained_segmentation": "the largest of nearly equal scores",
}

Metrics = Mapping[str, float | None]


def measured_by(run: Path) -> dict[str, float]:
    """Metrics of a run, and the training losses of each stage's first and last step."""
    losses = {
        f"{stage}: loss of step {step}": loss
        for stage, curve in losses_of(run).items()
        for step, loss in curve.items()
        if step in (min(curve), max(curve))
    }
    return {**losses, **metrics_of(run)}


def pinned_part(project: str, measured: Mapping[str, float]) -> dict[str, float | None]:
    """What can be pinned, rounded; a value that is not finite is None."""
    return {
        name: _rounded(value)
        for name, value in measured.items()
        if not any(re.search(pattern, f"{project} {name}") for pattern in NOT_PINNED)
    }


def differences(pinned: Metrics, measured: Metrics) -> list[str]:
    """A line for each metric that is missing, new or not what is pinned."""
    lines = [f"{name} is not measured any more" for name in pinned.keys() - measured.keys()]
    lines += [f"{name} is new" for name in measured.keys() - pinned.keys()]
    for name in pinned.keys() & measured.keys():
        old, new = pinned[name], measured[name]
        if old is None or new is None:
            equal = old is new
        else:
            equal = math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE * SMALL)
        if not equal:
            lines.append(f"{name}: {old} is pinned, {new} measured")
    return sorted(lines)


def read() -> dict[str, dict[str, float | None]]:
    """All pinned metrics by project."""
    content: dict[str, dict[str, float | None]] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def write(pinned: Mapping[str, Metrics]) -> None:
    """One line a metric."""
    text = json.dumps({name: dict(pinned[name]) for name in sorted(pinned)}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
