"""``docs/arena.md``: the tables between its marks, and the figures, from ``results/arena``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arena.figures import draw_mechanisms, draw_scores, draw_sensitivity
from arena.statistics import Difference, seed_agreement
from arena.study import BROKEN, COPIED, COPY, RESULTS
from common.config import ROOT
from common.engine import workspace as ws
from common.files import write_text

PAGE = ROOT / "docs/arena.md"
FURTHER = ".further.json"  # results next to those of a study, see `arena.further`
BEGIN, END = "<!-- {}:begin -->", "<!-- {}:end -->"


def table(result: Mapping[str, Any]) -> list[str]:
    """Markdown rows of a study, the best contestant first."""
    metric, also = result["metric"], result["also"]
    lines = [
        f"| loss | {metric} | minus the best, 95 % interval | worse than | {' | '.join(also)} |"
        " search: best, median, worst | rate, setting |",
        "|---" * (6 + len(also)) + "|",
    ]
    for place in result["standings"]:
        name = place["name"]
        row = result["contestants"][name]
        shown = {k: f"{v['mean']:.3f} ± {v['std']:.3f}" for k, v in row["metrics"].items()}
        scores = sorted((one["score"] for one in row["search"]), reverse=True)
        searched = (
            f"{scores[0]:.3f}, {scores[len(scores) // 2]:.3f}, {scores[-1]:.3f}" if scores else ""
        )
        gap = "" if place["rank"] == 1 else f"{place['low']:+.3f} to {place['high']:+.3f}"
        (setting,) = row["setting"].items()
        chosen = f"{row['rate']:g}, {setting[0]} {setting[1]:g}" if setting[1] is not None else ""
        title = name if row["role"] == "contestant" else f"*{name}* ({row['role']})"
        beaten = str(len(place["worse_than"])) if place["worse_than"] else "none"
        lines.append(
            f"| {title} | {shown[metric]} | {gap} | {beaten} |"
            f" {' | '.join(shown.get(other, '') for other in also)} |"
            f" {searched} | {chosen} |"
        )
    rest = " |" * (4 + len(also))
    lines += [f"| *{name}* | {value:.3f} |{rest}" for name, value in result["baselines"].items()]
    return lines


def paragraph(result: Mapping[str, Any]) -> str:
    """Where it was measured, what the controls did, and whether seeds agree."""
    measured, places = result["measured"], result["standings"]
    ordinary = [p for p in places if result["contestants"][p["name"]]["role"] == "contestant"]
    best = ordinary[0]["name"]
    equal = [p["name"] for p in ordinary if best not in p["worse_than"]][1:]
    values = {
        p["name"]: result["contestants"][p["name"]]["metrics"][result["metric"]]["values"]
        for p in ordinary
    }
    by_name = {p["name"]: p for p in places}
    text = [
        f"Best here: **{best}**.",
        f"Not distinguishable from it: {', '.join(equal) or 'none'}.",
        f"The order of the losses agrees between two seeds by a Spearman correlation of"
        f" {seed_agreement(values):.2f}.",
    ]
    if {COPY, COPIED} <= by_name.keys():
        first, second = sorted((COPY, COPIED), key=lambda name: by_name[name]["rank"])
        word = "differs" if first in by_name[second]["worse_than"] else "is inconclusive"
        text.append(f"Controls: a second copy of {COPIED} {word};")
        last = places[-1]["name"] == BROKEN
        text.append(f"positives of another sample come {'last' if last else 'NOT last'}.")
    if at_edge := [p["name"] for p in ordinary if _at_edge(result["contestants"][p["name"]])]:
        text.append(
            f"The best rate or setting is the last of those searched for {', '.join(at_edge)}:"
            " more could be in them."
        )
    text.append(
        f"Measured at {measured['version']} (commit {(measured['commit'] or 'unknown')[:12]}) on"
        f" {measured['processor']}, {measured['date']}: {measured['steps']} steps, seeds"
        f" {', '.join(map(str, measured['seeds']))}, search on seed {measured['search_seed']}."
    )
    return " ".join(text)


def _at_edge(row: Mapping[str, Any]) -> bool:
    """Whether the chosen rate or setting is the smallest or largest of those that were tried."""
    chosen = {"rate": row["rate"], "setting": next(iter(row["setting"].values()))}
    return any(
        value in (min(tried), max(tried))
        for key, value in chosen.items()
        if len(tried := {one[key] for one in row["search"]}) > 1
    )


def order(result: Mapping[str, Any]) -> list[str]:
    """Markdown rows: whether an order that a paper reports holds under equal conditions."""
    lines = [
        "| a paper reports | difference here, corrected interval | verdict |",
        "|---|---|---|",
    ]
    for row in result["published_order"]:
        one = Difference(**row)
        interval = f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
        lines.append(f"| {one.name} above {one.other} | {interval} | {one.verdict} |")
    return lines


def costs(result: Mapping[str, Any], more: Mapping[str, Any]) -> list[str]:
    """Markdown rows: cost of a step, and the scores at equal time, the best one first."""
    lines = [
        f"| loss | cost of a step | {result['metric']} at equal steps | at equal time | steps |",
        "|---|---|---|---|---|",
    ]
    for name, timed in sorted(more["equal_time"].items(), key=lambda pair: -pair[1]["mean"]):
        steps = result["contestants"][name]["metrics"][result["metric"]]
        lines.append(
            f"| {name} | {more['cost'][name]:.2f} | {steps['mean']:.3f} ± {steps['std']:.3f} |"
            f" {timed['mean']:.3f} ± {timed['std']:.3f} | {timed['steps']} |"
        )
    return lines


def write_page(page: Path = PAGE, results: Path = RESULTS) -> Path:
    """Put the published results of each family between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    for path in sorted(results.glob("*.json")):
        result = ws.read_json(path)
        if path.name.endswith(FURTHER):
            continue
        name = path.stem
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            continue
        further = results / f"{name}{FURTHER}"
        more = ws.read_json(further) if further.is_file() else None
        images = page.parent / "images"
        draw_scores(result, images / f"arena_{name}.svg")
        draw_sensitivity(result, more, images / f"arena_{name}_sensitivity.svg")
        draw_mechanisms(result, images / f"arena_{name}_mechanisms.svg")
        parts = [
            paragraph(result),
            f"![Scores of {name}](images/arena_{name}.svg)",
            "\n".join(table(result)),
            "\n".join(order(result)),
            *(["\n".join(costs(result, more))] if more else []),
            f"![Sensitivity of {name}](images/arena_{name}_sensitivity.svg)",
            f"![Mechanisms of {name}](images/arena_{name}_mechanisms.svg)",
        ]
        body = "\n\n".join(parts)
        text = f"{before}{begin}\n{body}\n{end}{after}"
    write_text(page, text)
    return page
