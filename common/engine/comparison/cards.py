"""A published comparison for readers: table, claims and plot of the project's card."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import ROOT, UserError
from common.engine.comparison.results import write_results
from common.engine.comparison.spec import MAIN
from common.files import write_text

CARD = re.compile(r"(<!-- results:begin -->\n).*?(<!-- results:end -->)", re.S)
SHOWN = 4  # metrics of a table; with arm and minutes it has six columns
CHANCE, UNTRAINED = "chance", "untrained"  # baselines that every first table shows
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
    """What readers see of each comparison.

    Of the first one: arms with the baselines that matter, claims, where it was measured. All other
    rows, metrics and remarks are folded away, and so are further comparisons.
    """
    return "\n\n".join(
        _main(comparison) if comparison["name"] == MAIN else _further(comparison)
        for comparison in comparisons
    )


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


def _main(comparison: Mapping[str, Any]) -> str:
    rows, metrics = _rows(comparison), _metrics(comparison)
    chosen = {name: rows[name] for name in _chosen(comparison, rows)}
    paragraphs = [_table(metrics[:SHOWN], chosen, digits=_digits), _claims(comparison["claims"])]
    paragraphs += [*_below(comparison), comparison["note"]]
    folded = [*_tables(metrics, rows), *_remarks(comparison)]
    details = _folded("All baselines and metrics, remarks on the verdicts", folded)
    return _joined(*paragraphs, details, _measured(comparison))


def _further(comparison: Mapping[str, Any]) -> str:
    paragraphs = [*_tables(_metrics(comparison), _rows(comparison)), _claims(comparison["claims"])]
    paragraphs += [*_below(comparison), comparison["note"], *_remarks(comparison)]
    paragraphs.append(_measured(comparison))
    verdicts = Counter(verdict_word(claim) for claim in comparison["claims"])
    counts = ", ".join(f"{number} {word}" for word, number in verdicts.items())
    return _folded(f"Another comparison, {comparison['name']}: {counts}", paragraphs)


def _joined(*paragraphs: str) -> str:
    return "\n\n".join(filter(None, paragraphs))


def _folded(summary: str, paragraphs: Iterable[str]) -> str:
    head = f'<details markdown="1"><summary>{summary}</summary>'
    return _joined(head, *paragraphs, "</details>")


def _metrics(comparison: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that an arm has, the primary one first."""
    measured = {name for row in comparison["arms"].values() for name in row["metrics"]}
    return [n for n in (comparison["metric"], *comparison["also"]) if n in measured]


def _rows(comparison: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Arms, baselines and the measured chance levels."""
    rows = {**comparison["arms"], **comparison["baselines"]}
    if comparison["chance"] and CHANCE not in comparison["baselines"]:
        levels = {metric: [level] for metric, level in comparison["chance"].items()}
        rows[CHANCE] = {"metrics": levels}
    return {n if n in comparison["arms"] else f"*{n}*": row for n, row in rows.items()}


def _chosen(comparison: Mapping[str, Any], rows: Iterable[str]) -> list[str]:
    """The rows of the first table: arms, baselines of claims, the best one, untrained, chance."""
    named = {word for claim in comparison["claims"] for word in claim["claim"].split()}
    named |= {best_baseline(comparison), UNTRAINED, CHANCE}
    return [name for name in rows if name in comparison["arms"] or name.strip("*") in named]


def best_baseline(comparison: Mapping[str, Any]) -> str | None:
    """The best training-free baseline in the primary metric.

    Bounds are not baselines, and neither is chance, which is the best value of a metric that
    measures leakage. None without any.
    """
    metric, sign = comparison["metric"], 1.0 if comparison["direction"] == "max" else -1.0
    values = {
        name: sign * row["metrics"][metric][0]
        for name, row in comparison["baselines"].items()
        if name not in (CHANCE, *comparison["bounds"]) and metric in row["metrics"]
    }
    return max(values, key=lambda name: values[name], default=None)


def _tables(metrics: Sequence[str], rows: Mapping[str, Any]) -> list[str]:
    """All rows and metrics to four digits, with minutes, in tables of six columns."""
    later = range(SHOWN, len(metrics), SHOWN + 1)
    return [
        _table(metrics[:SHOWN], rows, minutes=True),
        *(_table(metrics[i : i + SHOWN + 1], rows) for i in later),
    ]


def _table(
    metrics: Sequence[str],
    rows: Mapping[str, Any],
    *,
    minutes: bool = False,
    digits: Callable[[Iterable[Sequence[float]]], int] = lambda column: 4,
) -> str:
    heads = ["arm", *metrics, *(["minutes a run"] if minutes else [])]
    columns = {m: [row["metrics"].get(m, []) for row in rows.values()] for m in metrics}
    places = {m: digits(columns[m]) for m in metrics}
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for i, (name, row) in enumerate(rows.items()):
        cells = [" ± ".join(f"{v:.{places[m]}f}" for v in columns[m][i]) for m in metrics]
        cells += [f"{row['minutes']:.1f}" if "minutes" in row else ""] if minutes else []
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _digits(column: Iterable[Sequence[float]]) -> int:
    """Decimal places that leave the largest value of a column three digits.

    >>> _digits([[0.459, 0.02], [0.53]]), _digits([[24.75, 2.9]]), _digits([[0.012]])
    (3, 2, 4)
    """
    largest = max((abs(v) for values in column for v in values[:1]), default=0.0)
    return next((n for n, least in ((0, 1000), (1, 100), (2, 10), (3, 0.1)) if largest >= least), 4)


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    if not claims:
        return ""
    lines = ["| claim | difference, 95 % interval | paper | verdict |", "|---" * 4 + "|"]
    for claim in claims:
        cells = [
            escaped(claim["claim"]),
            difference_text(claim),
            escaped(claim["paper"]) or "not stated",
            f"**{verdict_word(claim)}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _remarks(comparison: Mapping[str, Any]) -> list[str]:
    """How the intervals came about, and what is to be said of single claims."""
    claims, appendix = comparison["claims"], comparison["appendix"]
    resampled = dict.fromkeys(claim["resampled"] for claim in [*claims, *appendix])
    paragraphs = [f"Intervals are bootstraps over {'; '.join(resampled)}."] if resampled else []
    paragraphs.append(_list(claims))
    if appendix:
        paragraphs += ["Judged, not counted:", _claims(appendix), _list(appendix)]
    return paragraphs


def _list(claims: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(
        f"- {escaped(claim['claim'])}: {text}." for claim in claims if (text := _remark(claim))
    )


def _below(comparison: Mapping[str, Any]) -> list[str]:
    """Methods that are worse than the best training-free baseline, by that baseline."""
    methods: dict[str, dict[str, None]] = {}
    for claim in comparison["claims"]:
        for low in claim["below"]:
            baseline = f"{low['baseline']} ({low['metric']} {low['baseline_value']:.4f})"
            methods.setdefault(baseline, {})[f"{low['arm']} ({low['value']:.4f})"] = None
    return [
        f"Worse than the best training-free baseline, {baseline}: {', '.join(arms)}."
        for baseline, arms in methods.items()
    ]


def _remark(claim: Mapping[str, Any]) -> str:
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
