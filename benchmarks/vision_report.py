"""Rows, CSV and figure of the vision benchmarks."""

import csv
import datetime
import os
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from common.engine.workspace import cpu_name

OURS, COLOURS = "ours", ("#0072B2", "#D55E00", "#E69F00", "#999999", "#009E73")
Seconds = tuple[float, float]  # wall and CPU time
Round = dict[str, Seconds]  # by contender


def timed(function: Callable[[], object]) -> Seconds:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def interleaved(contenders: dict[str, Callable[[], Seconds]], rounds: int) -> list[Round]:
    """Run every contender once a round, in rotating order; the first, warm round is dropped."""
    names, done = list(contenders), []
    for number in range(rounds + 1):
        start = number % len(names)
        order = names[start:] + names[:start]
        found = {name: contenders[name]() for name in order}
        done.append({name: found[name] for name in names})
    return done[1:]


def summary(rounds: Sequence[Round], images: int, case: str) -> list[dict[str, object]]:
    """One row a contender: images per second, and ours over it within a round; all medians."""
    rows = []
    for name in rounds[0]:
        row: dict[str, object] = {"case": case, "name": name, "rounds": len(rounds)}
        for place, prefix in enumerate(("", "cpu_")):
            speed = statistics.median(images / r[name][place] for r in rounds)
            ratio = statistics.median(r[name][place] / r[OURS][place] for r in rounds)
            row |= {
                f"{prefix}images_per_second": round(speed, 1),
                f"{prefix}ratio": round(ratio, 2),
            }
        rows.append(row)
        print(
            f"{case}: {name} {row['images_per_second']} images/s ({row['cpu_images_per_second']} by"
            f" CPU time); ours is {row['ratio']} times as fast ({row['cpu_ratio']} by CPU time)"
        )
    return rows


def write(rows: Sequence[dict[str, object]], stem: str, title: str, folder: Path) -> None:
    """CSV and figure; overwritten by every run."""
    machine = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[1], 1),
        "threads": torch.get_num_threads(),
        **{name: _version(name) for name in ("torch", "torchvision", "lightning", "lightly")},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, {**machine, **rows[0]}, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**machine, **row} for row in rows)
    _figure(rows, f"{title}; {machine['machine']}", folder / f"{stem}.png")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _figure(rows: Sequence[dict[str, object]], title: str, path: Path) -> None:
    """Images per CPU second of every contender, a panel for each case."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(str(row["case"]) for row in rows))
    figure = Figure(figsize=(7, 0.6 + 1.7 * len(cases)), layout="constrained")
    panels = figure.subplots(len(cases), 1, squeeze=False)[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        own = [row for row in rows if row["case"] == case]
        speeds = [float(str(row["cpu_images_per_second"])) for row in own]
        bars = axes.barh([str(row["name"]) for row in own], speeds, color=COLOURS[: len(own)])
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_title(case, fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
    panels[-1].set_xlabel("images per second of CPU time", fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=110)
