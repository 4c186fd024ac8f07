"""A published comparison for readers: table, claims and plot of the project's card."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import ROOT, UserError
from common.engine.comparison.results import write_results
from common.engine.comparison.spec import MAIN
from common.files import write_text

CARD = re.compile(r"(<!-- results:begin -->\n).*?(<!-- results:end -->)", re.S)
SHOWN = 4  # metrics in a card's first table, which has six columns; the others are folded away
WORDS = {"not shown": "inconclusive"}  # verdicts whose word for readers is another
Comparisons = Sequence[Mapping[str, Any]]


def publish(project: str, comparisons: Comparisons) -> None:
    """Write a project's results, the plot next to them and the block in its card.

    Raises:
        UserError: the card has no such block.
    """
    write_results(project, comparisons)
    plot(comparisons, ROOT / "results" / f"{project}.png")
    card = ROOT / "projects" / project / "README.md"
    text = card.read_text(encoding="utf-8")
    if not CARD.search(text):
        raise UserError(f"{card} has no '<!-- results:begin -->' ... '<!-- results:end -->' block")
    block = f"{markdown(comparisons)}\n\n![comparison](../../results/{project}.png)\n"
    write_text(card, CARD.sub(lambda m: m[1] + block + m[2], text))


def markdown(comparisons: Comparisons) -> str:
    """Table, claims and provenance of each comparison."""
    parts = []
    for comparison in comparisons:
        title = "" if comparison["name"] == MAIN else f"**{comparison['name']}**\n\n"
        parts.append(title + "\n\n".join(_paragraphs(comparison)))
    return "\n\n".join(parts)


def verdict_word(claim: Mapping[str, Any]) -> str:
    """A claim's verdict as readers see it."""
    word = str(claim["verdict"])
    return WORDS.get(word, word)


def escaped(text: str) -> str:
    r"""Text of a claim in Markdown, where ``*`` and ``|`` mean something else.

    >>> print(escaped("dcl@lr* > infonce@lr*"))
    dcl@lr\* > infonce@lr\*
    """
    return text.replace("*", r"\*").replace("|", r"\|")


def difference_text(claim: Mapping[str, Any]) -> str:
    """A difference with its interval, if it has one.

    >>> difference_text({"difference": 0.1, "interval": [0.05, 0.15]})
    '+0.1000 [+0.0500, +0.1500]'
    """
    if claim["interval"] is None:
        return f"{claim['difference']:+.4f}"
    low, high = claim["interval"]
    return f"{claim['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _paragraphs(comparison: Mapping[str, Any]) -> list[str]:
    rows = {
        **comparison["arms"],
        **{f"*{name}*": row for name, row in comparison["baselines"].items()},
    }
    measured = {name for row in comparison["arms"].values() for name in row["metrics"]}
    metrics = [n for n in (comparison["metric"], *comparison["also"]) if n in measured]
    if comparison["chance"] and "chance" not in comparison["baselines"]:
        levels = {metric: [level] for metric, level in comparison["chance"].items()}
        rows["*chance*"] = {"metrics": levels}
    paragraphs = [_table(metrics[:SHOWN], rows, minutes=True)]
    if further := metrics[SHOWN:]:
        tables = [
            _table(further[i : i + SHOWN + 1], rows) for i in range(0, len(further), SHOWN + 1)
        ]
        folded = ['<details markdown="1"><summary>Further metrics</summary>', *tables, "</details>"]
        paragraphs.append("\n\n".join(folded))
    paragraphs += _claims(comparison["claims"])
    if comparison["appendix"]:
        paragraphs += ["Judged, not counted:", *_claims(comparison["appendix"])]
    if comparison["note"]:
        paragraphs.append(comparison["note"])
    return [*paragraphs, _measured(comparison)]


def _table(metrics: Sequence[str], rows: Mapping[str, Any], minutes: bool = False) -> str:
    heads = ["arm", *metrics, *(["minutes a run"] if minutes else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in rows.items():
        cells = [" ± ".join(f"{v:.4f}" for v in row["metrics"].get(m, [])) for m in metrics]
        cells += [f"{row['minutes']:.1f}" if "minutes" in row else ""] if minutes else []
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of claims; below it how the intervals came about, and what else is to be said."""
    if not claims:
        return []
    lines = ["| claim | here | difference, 95 % interval | paper | verdict |", "|---" * 5 + "|"]
    for claim in claims:
        cells = [
            escaped(claim["claim"]),
            f"{claim['left']:.4f} and {claim['right']:.4f}",
            difference_text(claim),
            escaped(claim["paper"]) or "not stated",
            f"**{verdict_word(claim)}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    resampled = dict.fromkeys(claim["resampled"] for claim in claims)
    remarks = [f"- {escaped(c['claim'])}: {text}." for c in claims if (text := _remarks(c))]
    remarks += [f"- Worse than the best training-free baseline, {text}." for text in _below(claims)]
    paragraphs = ["\n".join(lines), f"Intervals are bootstraps over {'; '.join(resampled)}."]
    return [*paragraphs, "\n".join(remarks)] if remarks else paragraphs


def _below(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """Methods that are worse than the best training-free baseline, by that baseline."""
    methods: dict[str, dict[str, None]] = {}
    for claim in claims:
        for low in claim["below"]:
            baseline = f"{low['baseline']} ({low['metric']} {low['baseline_value']:.4f})"
            methods.setdefault(baseline, {})[f"{low['arm']} ({low['value']:.4f})"] = None
    return [f"{baseline}: {', '.join(arms)}" for baseline, arms in methods.items()]


def _remarks(claim: Mapping[str, Any]) -> str:
    """What readers need beyond difference and verdict: premises, published effects, parts."""
    remarks = []
    if "measured" in claim:
        ((metric, values),) = claim["measured"].items()
        arms = ", ".join(f"{arm} {value:.4g}" for arm, value in values.items())
        remarks.append(f"{claim['reason']} ({metric}: {arms})")
    if "interval_verdict" in claim:
        word = WORDS.get(claim["interval_verdict"], claim["interval_verdict"])
        remarks.append(f"the interval alone says {word}")
    if "published" in claim and claim["interval"] is not None:
        remarks.append(_published_text(claim))
    remarks += [
        f"{escaped(part['claim'])} is {verdict_word(part)}, {difference_text(part)}"
        for part in claim.get("parts", [])
    ]
    return "; ".join(remarks)


def _published_text(claim: Mapping[str, Any]) -> str:
    """An effect of the paper's relative size, compared with the interval."""
    effect, (low, high) = claim["published"]["effect"], claim["interval"]
    if claim["published"]["excluded"]:
        return f"an effect of the paper's relative size, {effect:+.4f}, lies outside the interval"
    if claim["verdict"] == "not testable here" and "measured" not in claim:
        return (
            f"underpowered: the experiment resolves differences of {(high - low) / 2:.4f}, the"
            f" paper's would be {abs(effect):.4f}"
        )
    return f"an effect of the paper's relative size, {effect:+.4f}, lies inside the interval"


def _measured(comparison: Mapping[str, Any]) -> str:
    """Where the numbers come from, in one line."""
    measured = comparison["measured"]
    settings = " ".join(["", *comparison["overrides"]])
    seeds = ", ".join(map(str, comparison["seeds"]))
    return (
        f"Measured at {measured['version']} on {measured['gpu'] or measured['processor']},"
        f" {measured['date']}; config `{comparison['base']}`{settings},"
        f" {steps_text(comparison['arms'])}; mean ± standard deviation over seeds {seeds}."
    )


def steps_text(arms: Mapping[str, Any]) -> str:
    """Steps of the arms: one number when they are equal, a sum where a run has several stages."""
    by_steps: dict[str, list[str]] = {}
    for arm, row in arms.items():
        stages = row["steps"].values() if isinstance(row["steps"], Mapping) else [row["steps"]]
        by_steps.setdefault(" + ".join(f"{count:,}" for count in stages), []).append(arm)
    if len(by_steps) == 1 or not any("+" in steps for steps in by_steps):
        return f"{' or '.join(sorted(by_steps))} steps"
    return "steps by stage " + ", ".join(
        f"{s} ({', '.join(names)})" for s, names in by_steps.items()
    )


def plot(comparisons: Comparisons, path: Path) -> None:
    """A bar for the mean of each arm with dots for its seeds; below them the baselines, paler.

    Args:
        comparisons: with their values.
        path: of the image.
    """
    from matplotlib.figure import Figure

    rows = [_plot_rows(comparison) for comparison in comparisons]
    heights = [0.32 * len(bars) + 1.0 for bars in rows]
    figure = Figure(figsize=(6.4, sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, comparison, bars in zip(panels, comparisons, rows, strict=True):
        for row, (name, points) in enumerate(bars):
            trained = name in comparison["arms"]
            axes.barh(row, np.mean(points), color="#9db8d2" if trained else "#e3e3e3", zorder=1)
            if trained:
                axes.scatter(points, [row] * len(points), s=16, color="#1f4e79", zorder=2)
        names = [name for name, _ in bars]
        axes.set_yticks(range(len(names)), names)
        for label in axes.get_yticklabels()[len(comparison["arms"]) :]:
            label.set_color("0.4")
        axes.invert_yaxis()
        axes.set_xlabel(comparison["metric"])
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _plot_rows(comparison: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    """Arms with the primary metric of each seed, then the baselines that have it."""
    metric, values = comparison["metric"], comparison["values"]
    rows = [(arm, values[arm].of(metric)) for arm in comparison["arms"]]
    for name in comparison["baselines"]:
        (value,) = values[name].metrics.get(metric, [None])
        rows += [] if value is None else [(name, [value])]
    return rows
