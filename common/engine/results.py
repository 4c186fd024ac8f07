"""A comparison as published: table, verdicts, plot, result file and the project's card."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import ROOT, UserError
from common.engine.workspace import write_json

CARD = re.compile(r"(<!-- results:begin -->\n).*?(<!-- results:end -->)", re.S)


def markdown(result: Mapping[str, Any]) -> str:
    """The comparison as a markdown table with its verdicts and provenance."""
    names = [result["metric"], *result["also"]]
    arms = result["arms"]
    known: dict[str, Sequence[float]] = {}  # some metrics exist for some arms only
    for entry in arms.values():
        known |= entry["metrics"]
    names = [n for n in names if n in known]
    lines = [f"**{result['void']}**", ""] if result.get("void") else []
    lines += [
        "| arm | " + " | ".join(names) + " | minutes a run |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for arm, entry in arms.items():
        cells = [_mean_std(entry["metrics"].get(n)) for n in names]
        minutes = np.mean([s or 0 for s in entry["wall_seconds"]]) / 60
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {minutes:.1f} |")
    chance = [known.get(f"{n}_chance") for n in names]
    if any(c is not None for c in chance):
        cells = ["" if c is None else f"{np.mean(c):.4f}" for c in chance]
        lines.append("| *chance* | " + " | ".join(cells) + " | |")
    lines.append("")
    for claim in result["claims"]:
        low, high = claim["interval"]
        lines.append(
            f"- **{claim['claim']}: {claim['verdict']}** - paired difference of "
            f"{claim.get('metric', result['metric'])} {claim['difference']:+.4f}, 95 % interval "
            f"[{low:+.4f}, {high:+.4f}] (bootstrap over {claim['resampled']})."
        )
    if result["note"]:
        lines += ["", result["note"].strip()]
    hardware = result["hardware"]
    alike = [f"{key}={value}" for key, value in result.get("shared", {}).items()]
    settings = "".join(f", {item}" for item in [*alike, *result.get("overrides", [])])
    precision = f", {result['precision']}" if result.get("precision") else ""
    lines += [
        "",
        f"Mean and standard deviation over seeds {result['seeds']}; config `{result['base']}`"
        f"{settings}, {first_steps(arms)} steps each{precision}; {hardware['gpu'] or hardware['cpu']} "
        f"({hardware['cores']} cores); commit {(result['commit'] or 'unknown')[:10]}"
        f"{' with local changes' if result['dirty'] else ''}; {result['date']}.",
    ]
    return "\n".join(lines)


def first_steps(arms: Mapping[str, Any]) -> str:
    """Steps of the arms: one number when they are equal."""
    steps = sorted({str(entry["num_steps"]) for entry in arms.values()})
    return " / ".join(steps)


def publish(project: str, result: Mapping[str, Any]) -> None:
    """Write results/<slug>.json, the plot beside it and the table in the project's card."""
    folder = ROOT / "results"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{project}.json", result)
    plot(result, folder / f"{project}.png")
    card = ROOT / "projects" / project / "README.md"
    text = card.read_text(encoding="utf-8")
    if not CARD.search(text):
        raise UserError(f"{card} has no '<!-- results:begin -->' ... '<!-- results:end -->' block")
    table = markdown(result) + f"\n\n![comparison](../../results/{project}.png)\n"
    card.write_text(CARD.sub(lambda m: m[1] + table + m[2], text), encoding="utf-8")


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Dots for the seeds and a bar for the mean of each arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 0.5 * len(result["arms"]) + 1.2))
    axes = figure.subplots()
    for row, entry in enumerate(result["arms"].values()):
        axes.barh(row, entry["mean"], color="0.85", zorder=1)
        axes.scatter(entry["values"], [row] * len(entry["values"]), s=18, zorder=2)
    axes.set_yticks(range(len(result["arms"])), list(result["arms"]))
    axes.invert_yaxis()
    axes.set_xlabel(result["metric"])
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _mean_std(values: Sequence[float | None] | None) -> str:
    if values is None or None in values:
        return ""
    numbers = np.asarray(values, dtype=float)
    spread = f" +- {np.std(numbers, ddof=1):.4f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.4f}{spread}"
