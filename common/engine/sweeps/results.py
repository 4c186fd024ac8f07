"""Results of a sweep: a table of trials, the best settings of each arm, plots."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from common.engine.sweeps.schema import Sweep, words_of
from common.export.files import write_json
from common.files import write_text


class Point(NamedTuple):
    """Settings and what was measured with them."""

    settings: Mapping[str, Any]
    value: float


Points = Mapping[str, Sequence[Point]]  # by arm


def write_results(project: str, sweep: Sweep, points: Points, folder: Path) -> str:
    """Write ``sweep.md``, ``sweep.json`` and ``slices.png`` into the sweep's folder.

    Returns:
        The Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    choose = max if sweep.direction == "max" else min
    best = {arm: choose(own, key=lambda p: p.value) for arm, own in points.items() if own}
    text = _markdown(project, sweep, points, best)
    write_text(folder / "sweep.md", text)
    content = {
        "project": project,
        "base": sweep.base,
        "metric": sweep.metric,
        "seed": sweep.seed,
        "best": {arm: {"value": p.value, "settings": p.settings} for arm, p in best.items()},
        "trials": [
            {"arm": arm, "value": p.value, "settings": p.settings}
            for arm, own in points.items()
            for p in own
        ],
    }
    write_json(folder / "sweep.json", content)
    _plot_slices(sweep, points, folder / "slices.png")
    return text


def axes_of(sweep: Sweep) -> dict[str, list[Any]]:
    """What any arm varies; a setting of several arms with the values of all."""
    axes: dict[str, list[Any]] = {}
    for key, values in sweep.axes():
        before = axes.get(key, [])
        axes[key] = [*before, *(value for value in values if value not in before)]
    return axes


def ends(values: Sequence[Any]) -> tuple[float, float]:
    """Least and largest of several numbers; nan otherwise."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < max(2, len(values)):
        return math.nan, math.nan
    return float(min(numbers)), float(max(numbers))


def at_the_edge(sweep: Sweep, settings: Mapping[str, Any]) -> list[str]:
    """Settings whose best value is the least or largest tried: the optimum may lie outside.

    >>> sweep = Sweep(metric="m", space={"optim.lr": [0.1, 0.2, 0.3]})
    >>> at_the_edge(sweep, {"optim.lr": 0.3}), at_the_edge(sweep, {"optim.lr": 0.2})
    (['optim.lr'], [])
    """
    return [key for key, values in sweep.space.items() if settings[key] in ends(values)]


def _markdown(project: str, sweep: Sweep, points: Points, best: Mapping[str, Point]) -> str:
    metric = f"`{sweep.metric}` ({sweep.direction})"
    lines = [f"Sweep of `{project}/{sweep.base}`, seed {sweep.seed}: {metric}.", ""]
    for arm, (settings, value) in best.items():
        edge = at_the_edge(sweep.of(arm), settings)
        outside = f"; at the end of what was tried: {', '.join(edge)} (widen it)" if edge else ""
        name = f"best of {arm}" if arm else "best"
        lines.append(f"- {name}: {value:.4f} with `{' '.join(words_of(settings))}`{outside}")
    keys = list(axes_of(sweep))
    heads = ["arm", *keys, sweep.metric]
    lines += ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm, own in points.items():
        for settings, value in sorted(own, key=lambda p: p.value, reverse=sweep.direction == "max"):
            cells = [json.dumps(settings[key]) if key in settings else "" for key in keys]
            lines.append(f"| {' | '.join([arm or sweep.base, *cells, f'{value:.4f}'])} |")
    return "\n".join(lines) + "\n"


def _plot_slices(sweep: Sweep, points: Points, path: Path) -> None:
    """The metric over each setting, all arms that vary it in one plot."""
    if not any(points.values()):
        return
    space = axes_of(sweep)
    figure = Figure(figsize=(3.4 * len(space), 2.8), layout="constrained")
    for axes, (key, values) in zip(
        figure.subplots(1, len(space), squeeze=False)[0], space.items(), strict=True
    ):
        low, high = ends(values)
        numbers = not math.isnan(low)
        for arm, own in points.items():
            shown = sorted(
                (p.settings[key] if numbers else str(p.settings[key]), p.value)
                for p in own
                if key in p.settings
            )
            style = "o-" if len(space) == 1 else "o"
            axes.plot([x for x, _ in shown], [y for _, y in shown], style, markersize=4, label=arm)
        if numbers and low > 0 and high / low > 20:
            axes.set_xscale("log")
        axes.set_xlabel(key, fontsize=8)
        axes.tick_params(labelsize=7)
    figure.axes[0].set_ylabel(sweep.metric, fontsize=8)
    if len(points) > 1:
        figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
