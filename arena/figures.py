"""Figures of a study: scores with what is not separated, sensitivity, mechanisms."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from arena.mechanisms import MECHANISMS

BLUE, RED, GREY = "#1f6fb2", "#c23b2c", "#999999"


def cliques(standings: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """First and last rank, from 0, of the largest runs without a separated pair; two or more each.

    Source: Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", figure 1
    (bars over ranks; here over scores, by the corrected test of the study).

    >>> rows = [("a", []), ("b", []), ("c", ["a"])]
    >>> cliques([{"name": name, "worse_than": worse} for name, worse in rows])
    [(0, 1), (1, 2)]
    """
    found: list[tuple[int, int]] = []
    for first in range(len(standings)):
        last = first
        while last + 1 < len(standings) and not (
            {one["name"] for one in standings[first : last + 1]}
            & {*standings[last + 1]["worse_than"]}
        ):
            last += 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def draw_scores(result: Mapping[str, Any], path: Path) -> None:
    """Scores of the seeds next to those of the search; bars join what the test does not separate."""
    metric, places = result["metric"], result["standings"]
    figure = Figure(figsize=(7.5, 0.34 * len(places) + 1.1), layout="constrained")
    axes, bars = figure.subplots(1, 2, sharey=True, width_ratios=[6, 1])
    shown: list[float] = []
    for rank, place in enumerate(places):
        row = result["contestants"][place["name"]]
        seeds = row["metrics"][metric]["values"]
        tried = [one["score"] for one in row["search"] if one["score"] is not None]
        shown += [*seeds, *tried]
        axes.plot(tried, [rank] * len(tried), "|", color=GREY, ms=11)
        axes.plot(seeds, [rank] * len(seeds), "o", color=BLUE, ms=4, alpha=0.8)
    least = 2 * min(shown) - max(shown)  # lower ones are too far off, the table has them
    drawn = {name: value for name, value in result["baselines"].items() if value >= least}
    for value in drawn.values():
        axes.axvline(value, color=RED, lw=0.8, ls=":")
    for value, names in _labels(drawn, 0.02 * (max(*shown, *drawn.values()) - min(shown))):
        axes.text(value, -0.8, names, fontsize=7, color=RED, ha="right", rotation=90, va="top")
    axes.set_yticks(range(len(places)), [place["name"] for place in places])
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}: dots fresh seeds, bars the search on other data")
    for column, (first, last) in enumerate(cliques(places)):
        bars.plot([column] * 2, [first - 0.2, last + 0.2], color="#333333", lw=3)
    bars.set_xlabel("not separated")
    bars.set_xticks([])
    bars.margins(x=0.3)
    bars.tick_params(left=False)
    _plain(axes, bars)
    bars.spines["left"].set_visible(False)
    bars.spines["bottom"].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Equal figures are written as equal bytes."""
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def _labels(values: Mapping[str, float], gap: float) -> list[tuple[float, str]]:
    """Values with their names, those that are nearer to each other than a gap under one label.

    >>> _labels({"b": 0.5, "a": 0.49, "c": 0.6}, 0.05)
    [(0.49, 'a, b'), (0.6, 'c')]
    """
    labels: list[tuple[float, str]] = []
    last = -math.inf
    for name, value in sorted(values.items(), key=lambda pair: pair[1]):
        if value - last < gap:
            at, names = labels.pop()
            labels.append((at, f"{names}, {name}"))
        else:
            labels.append((value, name))
        last = value
    return labels


def draw_sensitivity(result: Mapping[str, Any], more: Mapping[str, Any] | None, path: Path) -> None:
    """How much the score falls away from the chosen rate, setting and batch size."""
    batches = (more or {}).get("batches", {})
    figure = Figure(figsize=(10 if batches else 7.5, 3.6), layout="constrained")
    panels = list(figure.subplots(1, 3 if batches else 2, sharey=True))
    for name, colour in _colours(result).items():
        tried = result["contestants"][name]["search"]
        middle, rate = tried[0]["setting"], tried[-1]["rate"]  # rates come first, settings last
        top = max(one["score"] for one in tried if one["score"] is not None)
        curves: list[dict[float, float | None]] = [
            {one["rate"]: one["score"] for one in tried if one["setting"] == middle},
            {one["setting"] / middle: one["score"] for one in tried if one["rate"] == rate},
        ]
        if name in batches:
            curves.append({int(size): score for size, score in batches[name].items()})
        for axes, curve in zip(panels, curves, strict=False):
            points = sorted((at, y - top) for at, y in curve.items() if y is not None)
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name, ms=3)
    titles = ("learning rate", "setting of its own over its first value", "batch size")
    for axes, title in zip(panels, titles, strict=False):
        axes.set_xscale("log")
        axes.set_xlabel(title)
    for axes in panels[1:]:  # less than a decade: labels of minor ticks would overprint
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("score minus the best one of the search")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    _plain(*panels)
    _save(figure, path)


def draw_cost(result: Mapping[str, Any], costs: Mapping[str, Any], path: Path) -> None:
    """Score at equal steps over processor time, operations and memory of a step."""
    metric = result["metric"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = list(figure.subplots(1, 3, sharey=True))
    titles = {
        "time": "processor time, NT-Xent 1",
        "gflop": "operations, GFLOP",
        "memory_mib": "memory, MiB",
    }
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for name, colour in _colours(result).items():
            if name in costs["steps"]:
                score = result["contestants"][name]["metrics"][metric]
                axes.errorbar(
                    costs["steps"][name][key],
                    score["mean"],
                    score["std"],
                    fmt="o",
                    color=colour,
                    label=name,
                    ms=4,
                )
        axes.set_xlabel(f"{title}, of a step")
    panels[0].set_ylabel(f"{metric}, mean and deviation over seeds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    _plain(*panels)
    _save(figure, path)


def draw_mechanisms(result: Mapping[str, Any], path: Path) -> None:
    """Embeddings of a batch while contestants train, means over seeds."""
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, mechanism in zip(panels, MECHANISMS, strict=True):
        for name, colour in _colours(result).items():
            curve = result["contestants"][name]["mechanisms"][mechanism]
            if curve:
                axes.plot(*zip(*curve, strict=True), color=colour, label=name)
        axes.set_title(mechanism.replace("_", " "), fontsize=9)
        axes.set_xlabel("step")
        _plain(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    _save(figure, path)


def _colours(result: Mapping[str, Any]) -> dict[str, Any]:
    """A colour for everything that was searched, by its rank."""
    names = [one["name"] for one in result["standings"]]
    searched = [name for name in names if result["contestants"][name]["search"]]
    return {name: colormaps["tab20"](i % 20) for i, name in enumerate(searched)}


def _plain(*panels: Axes) -> None:
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
