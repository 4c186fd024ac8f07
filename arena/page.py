"""``docs/arena.md``: the tables between its marks, and the figures, from ``results/arena``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arena.figures import draw_cost, draw_mechanisms, draw_scores, draw_sensitivity
from arena.statistics import Difference, seed_agreement
from arena.study import BROKEN, COPIED, COPY, RESULTS
from common.config import ROOT
from common.engine import workspace as ws
from common.files import write_text

PAGE = ROOT / "docs/arena.md"
COST, FURTHER = ".cost.json", ".further.json"  # next to a study, see the modules of these names
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
        scores = sorted(
            (one["score"] for one in row["search"] if one["score"] is not None), reverse=True
        )
        searched = (
            f"{scores[0]:.3f}, {scores[len(scores) // 2]:.3f}, {scores[-1]:.3f}" if scores else ""
        )
        if diverged := len(row["search"]) - len(scores):
            searched += f" ({diverged} diverged)"
        gap = "" if place["rank"] == 1 else f"{place['low']:+.3f} to {place['high']:+.3f}"
        (setting,) = row["setting"].items()
        chosen = f"{row['rate']:g}, {setting[0]} {setting[1]:g}" if setting[1] is not None else ""
        if edges := at_edge(row):
            chosen += f" ({', '.join(edges)} at the edge)"
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
    begun = result.get("left_out", [])
    text = [
        *([f"This study has begun. Not measured yet: {', '.join(begun)}."] if begun else []),
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
    if edges := [p["name"] for p in ordinary if at_edge(result["contestants"][p["name"]])]:
        text.append(
            f"The best rate or setting is the last of those searched for {', '.join(edges)}:"
            " more could be in them."
        )
    runs = len(result["contestants"][best]["search"])
    text.append(
        f"Measured at {measured['version']} (commit {(measured['commit'] or 'unknown')[:12]}) on"
        f" {measured['processor']}, {measured['date']}: {measured['steps']} steps, seeds"
        f" {', '.join(map(str, measured['seeds']))}, search of {runs} runs each on seed"
        f" {measured['search_seed']}."
    )
    return " ".join(text)


def at_edge(row: Mapping[str, Any]) -> list[str]:
    """Which of rate and setting was chosen at an end of the values that were tried."""
    (setting,) = row["setting"].items()
    return [
        name
        for name, key, value in (("rate", "rate", row["rate"]), (setting[0], "setting", setting[1]))
        if len(tried := {one[key] for one in row["search"]}) > 1
        and value in (min(tried), max(tried))
    ]


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


def cost_table(
    result: Mapping[str, Any], costs: Mapping[str, Any], more: Mapping[str, Any] | None
) -> list[str]:
    """Markdown rows: score and cost of a step, and the score at equal time if it was measured.

    The best one is first.
    """
    timed = (more or {}).get("equal_time", {})
    scores = {
        name: result["contestants"][name]["metrics"][result["metric"]] for name in costs["steps"]
    }
    lines = [
        f"| loss | {result['metric']} at equal steps | time of a step | GFLOP | memory, MiB |"
        + (" at equal time | steps |" if timed else ""),
        "|---" * (7 if timed else 5) + "|",
    ]
    for name, score in sorted(scores.items(), key=lambda pair: -pair[1]["mean"]):
        step = costs["steps"][name]
        line = (
            f"| {name} | {score['mean']:.3f} ± {score['std']:.3f} | {step['time']:.2f} |"
            f" {step['gflop']:.2f} | {step['memory_mib']:.0f} |"
        )
        if name in timed:
            equal = timed[name]
            line += f" {equal['mean']:.3f} ± {equal['std']:.3f} | {equal['steps']} |"
        lines.append(line)
    return lines


def cost_parts(
    result: Mapping[str, Any],
    costs: Mapping[str, Any],
    more: Mapping[str, Any] | None,
    figure: Path,
) -> list[str]:
    """Table and figure of the costs."""
    draw_cost(result, costs, figure)
    measured = f"Cost of a step, measured at commit {(costs['commit'] or 'unknown')[:12]}:"
    return [
        measured,
        "\n".join(cost_table(result, costs, more)),
        f"![Quality against cost of {result['family']}](images/{figure.name})",
    ]


def write_page(page: Path = PAGE, results: Path = RESULTS) -> Path:
    """Put the published results of each family between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    for path in sorted(results.glob("*.json")):
        result = ws.read_json(path)
        if path.name.endswith((COST, FURTHER)):
            continue
        name = path.stem
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            continue
        costs, more = (
            ws.read_json(extra) if (extra := path.with_suffix(suffix)).is_file() else None
            for suffix in (COST, FURTHER)
        )
        images = page.parent / "images"
        draw_scores(result, images / f"arena_{name}.svg")
        draw_sensitivity(result, more, images / f"arena_{name}_sensitivity.svg")
        draw_mechanisms(result, images / f"arena_{name}_mechanisms.svg")
        parts = [
            paragraph(result),
            f"![Scores of {name}](images/arena_{name}.svg)",
            "\n".join(table(result)),
            "\n".join(order(result)),
            *(
                []
                if costs is None
                else cost_parts(result, costs, more, images / f"arena_{name}_cost.svg")
            ),
            f"![Sensitivity of {name}](images/arena_{name}_sensitivity.svg)",
            f"![Mechanisms of {name}](images/arena_{name}_mechanisms.svg)",
        ]
        body = "\n\n".join(parts)
        text = f"{before}{begin}\n{body}\n{end}{after}"
    write_text(page, text)
    return page
