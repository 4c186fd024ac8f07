"""A comparison as published: table, verdicts, plot, result file and the project's card."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.config import ROOT, UserError
from common.engine.comparison.pages import escaped
from common.engine.workspace import write_json

CARD = re.compile(r"(<!-- results:begin -->\n).*?(<!-- results:end -->)", re.S)
OLD_WORDS = {"not shown at this scale": "not shown"}  # of results published before


def markdown(result: Mapping[str, Any]) -> str:
    """Table, verdicts and provenance of a result, and of the further comparisons with it."""
    parts = [f"**{result['void']}**"] if result.get("void") else []
    parts.append(_one(result))
    parts += [f"**{own['name']}**\n\n{_one(own)}" for own in result.get("more", [])]
    return "\n\n".join(parts)


def comparisons(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The main comparison of a result file and the further ones."""
    return [result, *result.get("more", [])]


def verdict_word(claim: Mapping[str, Any]) -> str:
    """A published claim's verdict in today's words."""
    word = str(claim["verdict"])
    return OLD_WORDS.get(word, word)


def verdict_line(claim: Mapping[str, Any], metric: str) -> str:
    """One claim: verdict, difference and interval, the paper's numbers, what speaks against it."""
    word = verdict_word(claim)
    for low in claim.get("below", []):
        word += (
            f", {low['arm']} below {low['baseline']} "
            f"({low['value']:.4f} against {low['baseline_value']:.4f})"
        )
    text = (
        f"**{escaped(claim['claim'])}: {word}** - paired difference of"
        f" {claim.get('metric', metric)} {claim['difference']:+.4f}, {interval_text(claim)}"
        f" (bootstrap over {claim['resampled']})"
    )
    text += f"; paper: {escaped(claim['paper'])}" if claim.get("paper") else ""
    if "measured" in claim:
        ((name, values),) = claim["measured"].items()
        shown = ", ".join(f"{arm} {value:.4g}" for arm, value in values.items())
        text += (
            f"; {claim['reason']}: {name} {shown} (by the interval: {claim['interval_verdict']})"
        )
    if "published" in claim and claim["interval"] is not None:
        text += f"; {_published_text(claim)}"
    for part in claim.get("parts", []):
        text += (
            f"\n  - {escaped(part['claim'])}: {part['verdict']}, {part['difference']:+.4f},"
            f" {interval_text(part)}"
        )
    return text


def _published_text(claim: Mapping[str, Any]) -> str:
    """An effect of the paper's relative size beside the interval."""
    own, (low, high) = claim["published"], claim["interval"]
    text = f"an effect of the paper's relative size would be {own['effect']:+.4f}"
    if own["excluded"]:
        return f"{text}, outside the interval"
    if verdict_word(claim) == "not testable here" and "measured" not in claim:
        return (
            f"{text}, too small for seeds and items that tell {(high - low) / 2:.4f} to either side"
            f" (by the interval: {claim['interval_verdict']})"
        )
    return f"{text}, inside the interval"


def interval_text(claim: Mapping[str, Any]) -> str:
    """The interval of a difference, if it has one."""
    if claim["interval"] is None:
        return "no interval"
    low, high = claim["interval"]
    return f"95 % interval [{low:+.4f}, {high:+.4f}]"


def _one(result: Mapping[str, Any]) -> str:
    arms = result["arms"]
    baselines = result.get("baselines", {})
    appendix = result.get("appendix", {"arms": {}, "claims": []})
    names = [result["metric"], *result["also"]]
    lines: list[str] = []
    if arms:
        lines += _table(names, arms, baselines)
        lines += ["", *_claims(result["claims"], result["metric"])]
    if result.get("uncounted"):
        lines += ["", "Judged, not counted:", "", *_claims(result["uncounted"], result["metric"])]
    if appendix["arms"]:
        lines += ["", "Appendix (further arms):", "", *_table(names, appendix["arms"], {})]
        lines += ["", *_claims(appendix["claims"], result["metric"])]
    if result["note"]:
        lines += ["", result["note"].strip()]
    hardware = result["hardware"]
    alike = [f"{key}={value}" for key, value in result.get("shared", {}).items()]
    settings = "".join(f", {item}" for item in [*alike, *result.get("overrides", [])])
    precision = f", {result['precision']}" if result.get("precision") else ""
    design = f", design {result['design_commit'][:10]}" if result.get("design_commit") else ""
    design += " with local changes" if design and result.get("design_dirty") else ""
    lines += [
        "",
        (
            f"Mean and standard deviation over seeds {result['seeds']}; config `{result['base']}`"
            f"{settings}, {steps_text({**arms, **appendix['arms']})}{precision}; "
            f"{hardware['gpu'] or hardware['cpu']} ({hardware['cores']} cores); "
            f"commit {(result['commit'] or 'unknown')[:10]}"
            f"{' with local changes' if result['dirty'] else ''}{design}; {result['date']}"
            f"{_verified(result)}{_baselines_again(result)}."
        ),
    ]
    return "\n".join(lines)


def _verified(result: Mapping[str, Any]) -> str:
    """That runs of later code gave the same numbers, if they did (`make compare VERIFY=1|code`)."""
    if (again := result.get("verified")) is None:
        return ""
    commit = (
        f"{(again['commit'] or 'unknown')[:10]}{' with local changes' if again['dirty'] else ''}"
    )
    if (earlier := again.get("earlier")) is None:
        return (
            f"; seeds {again['seeds']} and the baselines again on {again['date']}, commit {commit}:"
            " every metric equal to the last digit"
        )
    machine = again["hardware"]["gpu"] or again["hardware"]["cpu"]
    short = f" with {' '.join(again['overrides'])}" if again["overrides"] else ""
    idle = [*again.get("unchanged_baselines", ())]
    which = " and the baselines"
    if again.get("arms_only"):
        which = ""
    elif idle:
        some = set(idle) != set(result["baselines"])
        which = " and those baselines whose code has changed" if some else ""
    kept = f", of {earlier['kept']} runs by what was kept of it" if earlier.get("kept") else ""
    return (
        f"; seeds {again['seeds']} of every arm{which}{short} run on {again['date']} by the"
        f" published code (commit {earlier['commit'][:10]}{kept}) and by commit {commit}, both on"
        f" {machine}: curves, metrics and items equal to the last digit"
    )


def _baselines_again(result: Mapping[str, Any]) -> str:
    """That the baselines are of later runs than the arms (`make compare VERIFY=baselines`)."""
    if (again := result.get("baselines_again")) is None:
        return ""
    changes = " with local changes" if again["dirty"] else ""
    machine = again["hardware"]["gpu"] or again["hardware"]["cpu"]
    return (
        f"; baselines run again on {again['date']} by commit"
        f" {(again['commit'] or 'unknown')[:10]}{changes} on {machine}"
    )


def _table(
    names: Sequence[str], arms: Mapping[str, Any], baselines: Mapping[str, Any]
) -> list[str]:
    known: dict[str, Sequence[float]] = {}  # some metrics exist for some arms only
    for entry in arms.values():
        known |= entry["metrics"]
    names = [n for n in names if n in known]
    lines = [
        "| arm | " + " | ".join(names) + " | minutes a run |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for arm, entry in {**arms, **baselines}.items():
        cells = [_mean_std(entry["metrics"].get(n)) for n in names]
        minutes = np.mean([s or 0 for s in entry["wall_seconds"]]) / 60
        shown = f"*{arm}*" if arm in baselines else arm
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | {minutes:.1f} |")
    chance = [known.get(f"{n}_chance") for n in names]
    if any(c is not None for c in chance) and "chance" not in baselines:
        cells = ["" if c is None else f"{np.mean(c):.4f}" for c in chance]
        lines.append("| *chance* | " + " | ".join(cells) + " | |")
    return lines


def _claims(claims: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Our numbers beside the paper's, where one of the claims has both; then the verdicts."""
    lines = []
    if any(claim.get("paper") for claim in claims):
        lines += ["| claim | here | paper | verdict |", "|---|---|---|---|"]
        for claim in claims:
            left, right = claim["here"]
            here = f"{left:.4f} against {right:.4f}"
            paper = claim.get("paper") or "not stated"
            lines.append(
                f"| {escaped(claim['claim'])} | {here} | {escaped(paper)} | {verdict_word(claim)} |"
            )
        lines.append("")
    return [*lines, *(f"- {verdict_line(claim, metric)}." for claim in claims)]


def steps_text(arms: Mapping[str, Any]) -> str:
    """Steps of the arms: one number when they are equal, a sum where a run has several stages.

    Results of before stages were counted know those of the first stage alone.
    """
    of: dict[str, list[str]] = {}
    for arm, entry in arms.items():
        stages = entry.get("stage_steps") or {"": entry["num_steps"]}
        of.setdefault(" + ".join(map(str, stages.values())), []).append(arm)
    if len(of) == 1 or not any("+" in steps for steps in of):
        return f"{' / '.join(sorted(of))} steps each"
    return "steps by stage " + ", ".join(f"{s} ({', '.join(names)})" for s, names in of.items())


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
    """Dots for the seeds and a bar for the mean of each arm; dashed lines for the baselines."""
    from matplotlib.figure import Figure

    shown = comparisons(result)
    heights = [0.5 * len(own["arms"]) + 1.2 for own in shown]
    figure = Figure(figsize=(6, sum(heights)), layout="constrained" if len(shown) > 1 else None)
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, own in zip(panels, shown, strict=True):
        for row, entry in enumerate(own["arms"].values()):
            axes.barh(row, entry["mean"], color="0.85", zorder=1)
            axes.scatter(entry["values"], [row] * len(entry["values"]), s=18, zorder=2)
        for name, entry in own.get("baselines", {}).items():
            if None not in entry["metrics"].get(own["metric"], [None]):
                axes.axvline(np.mean(entry["metrics"][own["metric"]]), color="0.4", linestyle="--")
                place = (np.mean(entry["metrics"][own["metric"]]), 1.0)
                axes.annotate(
                    name,
                    place,
                    xycoords=("data", "axes fraction"),
                    rotation=90,
                    fontsize=7,
                    ha="right",
                    va="top",
                )
        axes.set_yticks(range(len(own["arms"])), list(own["arms"]))
        axes.invert_yaxis()
        axes.set_xlabel(own["metric"])
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _mean_std(values: Sequence[float | None] | None) -> str:
    if values is None or None in values:
        return ""
    numbers = np.asarray(values, dtype=float)
    spread = f" +- {np.std(numbers, ddof=1):.4f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.4f}{spread}"
