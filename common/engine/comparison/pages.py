"""What the published comparisons found, as README and docs/evidence.md show it.

A result with a ``void`` text is shown with that text: its numbers stand until the comparison is run
again, which writes a result without it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]

SHORT = {"not shown at this scale": "not shown", "not testable here": "not testable"}
ORDER = ("supported", "not shown at this scale", "contradicted", "not testable here")
HEAD = """# Evidence

Written by `make evidence` (and `make docs`) from `results/*.json` and `configs/*/compare.yaml`. A claim is *supported*
when the whole 95 % interval of the paired difference lies on its side (beyond minus its margin),
*contradicted* when the whole interval lies on the other, and *not shown at this scale* otherwise. It is *not testable
here* when a measurement named before the runs says so (a premise of the claim does not hold), or when a claim that is
not shown has the paper's two values, the interval holds an effect of their relative size as well as none, and is wider to
either side than that effect: seeds and items are too few to tell. Where the interval of a claim that is not shown excludes
that effect, the column "here" says so; it also says how many seeds, if any number, would tell a difference as large as the
one seen from none in four of five repetitions (the interval's noise split between seeds and test items), and how long they
would run one after the other, where a comparison has 45 minutes. The cards say which, and what the interval alone says.
Tables of all arms are in the projects' cards. A result is *stale* when the code or the data that its
runs depend on, their config or the comparison has changed since; `make compare-all` works through
those. A claim is marked "below" where the method lies below a baseline that needs no training. "Minutes" are those of all
runs of the comparison, one after the other, as measured on the machine named, often beside other work; two runs at a time
(`JOBS=2`) take half of them. DebCSE, VacancySBERT, Video QA and, in three places, LOL are reconstructions from what could be
read of the papers, as their cards say: there a verdict is one on that reading of the method.
"""

WORDS = ("supported", "not shown", "contradicted", "not testable here")
FRESH, NOT_RUN = "fresh", "not run"


@dataclass(frozen=True)
class Row:
    """One claim.

    Attributes:
        project: slug.
        claim: text.
        verdict: one of `WORDS`, or "not run".
        here: difference and interval.
        paper: what the paper reports, from compare.yaml.
        below: baselines that beat the method.
        date: of the result, ISO; empty if there is none.
        state: "fresh", "not run", or "stale" with the reason.
        minutes: that all runs of the comparison took, one after the other; None if not known.
        void: whether the result must not be used; it then counts as nothing else.
        too_small: not shown, and the interval excludes an effect of the paper's relative size.
    """

    project: str
    claim: str
    verdict: str
    here: str
    paper: str
    below: str
    date: str
    state: str
    minutes: float | None
    void: bool = False
    too_small: bool = False


def read_results(folder: Path) -> dict[str, Result]:
    """Published results by project."""
    paths = sorted(folder.glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def verdict_counts(result: Result) -> str:
    """How many claims of a result and of the further comparisons in it have which verdict.

    >>> verdict_counts({"claims": [{"verdict": "supported"}, {"verdict": "contradicted"}] * 2})
    '2 supported, 2 contradicted'
    """
    found = [claim for own in (result, *result.get("more", [])) for claim in own["claims"]]
    counts = Counter(str(claim["verdict"]) for claim in found)
    names = [*ORDER, *sorted(counts.keys() - set(ORDER))]
    shown = ", ".join(f"{counts[name]} {SHORT.get(name, name)}" for name in names if counts[name])
    return shown or "no claims"


def project_table(
    projects: Mapping[str, str], results: Mapping[str, Result], fields: Mapping[str, str]
) -> str:
    """Tables of the README, one for each field, and below them why results are void.

    Args:
        projects: slug -> one line on the paper.
        results: by slug; a project without one has not been run.
        fields: slug -> what the project is about. The largest field comes first.
    """
    sizes = Counter(fields[slug] for slug in projects)
    tables = []
    for field in sorted(sizes, key=lambda name: (-sizes[name], name)):
        rows = [
            f"### {field}",
            "",
            "| project | paper | claims of `make compare` |",
            "|---|---|---|",
        ]
        for slug, text in projects.items():
            if fields[slug] == field:
                found = _claims_cell(slug, results.get(slug))
                rows.append(f"| [{slug}](projects/{slug}/README.md) | {text} | {found} |")
        tables.append("\n".join(rows) + "\n")
    return "\n".join(tables) + void_notice(results)


def _claims_cell(slug: str, result: Result | None) -> str:
    if result is None:
        return "not run"
    counts = verdict_counts(result)
    shown = f"void until re-run (was: {counts})" if result.get("void") else counts
    return f"[{shown}](docs/evidence.md#{slug})"


def void_notice(results: Mapping[str, Result]) -> str:
    """One paragraph for each reason, with the projects that it holds for; empty without any."""
    reasons: dict[str, list[str]] = {}
    for slug, result in results.items():
        if result.get("void"):
            reasons.setdefault(str(result["void"]), []).append(slug)
    return "".join(f"\n**{', '.join(slugs)}**: {text}\n" for text, slugs in reasons.items())


def escaped(text: str) -> str:
    r"""Text of a claim in Markdown, where the ``*`` of a factor and a ``|`` mean something else.

    >>> print(escaped("dcl@lr* > infonce@lr*"))
    dcl@lr\* > infonce@lr\*
    """
    return text.replace("*", r"\*").replace("|", r"\|")


def counts(rows: Sequence[Row]) -> str:
    """How many claims have which verdict, as one sentence."""
    number = Counter("void" if row.void else row.verdict for row in rows)
    words = [f"{number[word]} {word}" for word in WORDS]
    words += [f"{number[NOT_RUN]} {NOT_RUN}"] if number[NOT_RUN] else []
    words += [f"{number['void']} void until re-run"] if number["void"] else []
    below = sum(bool(row.below) and not row.void for row in rows)
    words += [f"{below} with a method below its best baseline without training"] if below else []
    projects = len({row.project for row in rows})
    text = f"{len(rows)} claims of {projects} projects: {', '.join(words)}."
    if small := sum(row.too_small and not row.void for row in rows):
        text += f" {small} of those not shown exclude an effect of the paper's relative size."
    own = sum(row.paper.startswith("ours") for row in rows)
    if own:
        text += f" {own} are expectations of this repository, the others say what a paper says."
    if stale := sum(row.state not in (FRESH, NOT_RUN) for row in rows):
        text += f" {stale} are stale: code, data or design have changed since."
    return text


def evidence_page(
    projects: Sequence[str], results: Mapping[str, Result], rows: Sequence[Row]
) -> str:
    """docs/evidence.md: counts, then for each project a table of its claims."""
    sections = [_section(slug, results.get(slug), rows) for slug in projects]
    return "\n".join([HEAD, counts(rows), "", *sections])


def _section(slug: str, result: Result | None, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row.project == slug]
    lines = [f"## {slug}", "", f"[Card](../projects/{slug}/README.md)"]
    lines[-1] += _setting(result) if result else "."
    void = result.get("void") if result else None
    lines += ["", f"**{void}**"] if void else []
    if not own:
        return "\n".join([*lines, "", "not run", ""])
    lines += ["", "| claim | verdict | here | in the paper | run | state | minutes |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in own:
        verdict = row.verdict + (f" (below {row.below})" if row.below else "")
        cells = [
            escaped(row.claim),
            f"void (was: {verdict})" if void else verdict,
            row.here,
            escaped(row.paper) or "not stated",
            row.date,
            row.state,
            "" if row.minutes is None else f"{row.minutes:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _setting(result: Result) -> str:
    commit, hardware = result.get("commit"), result.get("hardware") or {}
    better = {"min": "lower is better", "max": "higher is better"}.get(result.get("direction", ""))
    parts = [
        f"config `{result['base']}`" if result.get("base") else None,
        better,
        hardware.get("gpu") or hardware.get("cpu"),
        (
            f"commit {commit[:10]}{' with local changes' if result.get('dirty') else ''}"
            if commit
            else None
        ),
    ]
    found = [str(part) for part in parts if part]
    return f": {'; '.join(found)}." if found else "."


# -- the evidence at a glance -------------------------------------------------------------------

COLOURS = {
    "supported": "#2a9d55",
    "not shown": "#e0a526",
    "contradicted": "#c8402f",
    "not testable here": "#7a5fb0",
    "void": "#9aa3ad",
    NOT_RUN: "#ffffff",
}
SIDE, GAP, LINE, NAME, WIDTH, EDGE = 14, 4, 22, 150, 400, 8  # pixels
COLUMNS = 2
FONT = "font-family='sans-serif' font-size='13'"


def evidence_picture(rows: Sequence[Row]) -> str:
    """SVG: a line for each project, a square for each claim, its colour the verdict.

    A square is pale where the result is stale, and has a dark edge where the method lies below a
    baseline that needs no training. The text of a square (shown by browsers) is the claim.
    """
    projects = list(dict.fromkeys(row.project for row in rows))
    height = -(-len(projects) // COLUMNS)
    drawn = [_legend()]
    for number, project in enumerate(projects):
        x, y = EDGE + number // height * WIDTH, (number % height + 2) * LINE
        own = [row for row in rows if row.project == project]
        drawn.append(f"<text x='{x}' y='{y + 12}' {FONT} fill='#333'>{escape(project)}</text>")
        drawn += [_square(row, x + NAME + i * (SIDE + GAP), y) for i, row in enumerate(own)]
    size = COLUMNS * WIDTH + EDGE, (height + 2) * LINE
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size[0]} {size[1]}'"
        f" width='{size[0]}'>"
    )
    ground = f"<rect width='{size[0]}' height='{size[1]}' fill='#ffffff'/>"
    return "\n".join([head, ground, *drawn, "</svg>"]) + "\n"


def _square(row: Row, x: int, y: int) -> str:
    word = "void" if row.void else row.verdict
    edge = "#111" if row.below and word not in ("void", NOT_RUN) else "#777"
    pale = 0.45 if row.state not in (FRESH, NOT_RUN) else 1.0
    text = f"{row.claim}: {word} {row.here}".strip()
    wide = 2.5 if edge == "#111" else 0.8
    return (
        f"<rect x='{x}' y='{y}' width='{SIDE}' height='{SIDE}' fill='{COLOURS[word]}'"
        f" fill-opacity='{pale}' stroke='{edge}'"
        f" stroke-width='{wide}'><title>{escape(text)}</title></rect>"
    )


def _legend() -> str:
    parts, x = [], EDGE
    for word, colour in COLOURS.items():
        parts.append(
            f"<rect x='{x}' y='6' width='{SIDE}' height='{SIDE}' fill='{colour}' stroke='#777'/>"
            f"<text x='{x + SIDE + GAP}' y='18' {FONT} fill='#333'>{word}</text>"
        )
        x += SIDE + 22 + 7 * len(word)
    return (
        "".join(parts)
        + f"<text x='{x}' y='18' {FONT} fill='#777'>pale: stale; dark edge: below a baseline</text>"
    )
