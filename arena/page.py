"""``docs/arena.md``: the tables between its marks, and the picture, from ``results/arena``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arena.statistics import Difference, seed_agreement
from arena.study import BROKEN, COPIED, COPY, RESULTS
from common.config import ROOT
from common.engine import workspace as ws
from common.files import write_text

PAGE = ROOT / "docs/arena.md"
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
    text.append(
        f"Measured at {measured['version']} (commit {(measured['commit'] or 'unknown')[:12]}) on"
        f" {measured['processor']}, {measured['date']}: {measured['steps']} steps, seeds"
        f" {', '.join(map(str, measured['seeds']))}, search on seed {measured['search_seed']}."
    )
    return " ".join(text)


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


def picture(result: Mapping[str, Any], path: Path) -> None:
    """Scores of the seeds next to all scores of the search: level, spread, and how flat the optimum is."""
    from matplotlib.figure import Figure

    metric, places = result["metric"], result["standings"]
    figure = Figure(figsize=(7.5, 0.34 * len(places) + 1.1), layout="constrained")
    axes = figure.subplots()
    for height, place in enumerate(reversed(places)):
        row = result["contestants"][place["name"]]
        seeds = row["metrics"][metric]["values"]
        tried = [one["score"] for one in row["search"]]
        axes.plot(tried, [height] * len(tried), "|", color="#999999", ms=11)
        axes.plot(seeds, [height] * len(seeds), "o", color="#1f6fb2", ms=4, alpha=0.8)
    for name, value in result["baselines"].items():
        axes.axvline(value, color="#c23b2c", lw=0.8, ls=":")
        axes.text(value, len(places) - 0.4, name, fontsize=7, color="#c23b2c", ha="center")
    axes.set_yticks(range(len(places)), [place["name"] for place in reversed(places)])
    axes.set_xlabel(f"{metric}: fresh seeds on test images (dots), the search on others (bars)")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def write_page(page: Path = PAGE, results: Path = RESULTS) -> Path:
    """Put the published results of each family between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    for path in sorted(results.glob("*.json")):
        result = ws.read_json(path)
        begin, end = BEGIN.format(path.stem), END.format(path.stem)
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            continue
        parts = [paragraph(result), "\n".join(table(result)), "\n".join(order(result))]
        body = "\n\n".join(parts)
        text = f"{before}{begin}\n{body}\n{end}{after}"
        picture(result, page.parent / f"images/arena_{path.stem}.svg")
    write_text(page, text)
    return page
