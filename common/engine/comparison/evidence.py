"""Every claim of every project with its verdict, for README, docs/evidence.md and the image."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from common.config import ROOT, UserError
from common.engine.comparison.cards import difference_text, escaped, verdict_word
from common.engine.comparison.claims import claims_of
from common.engine.comparison.results import read_results
from common.engine.comparison.spec import read_comparisons
from common.engine.workspace import write_text
from common.registry import field_of, list_projects

VERDICTS = ("supported", "inconclusive", "contradicted", "not testable here")
NOT_RUN = "not run"
HEAD = """# Evidence

Each line is one claim: a statement of a paper, or an expectation of ours, that `make compare` tested on bundled data
with models small enough for a CPU. Differences come with 95 % bootstrap intervals over seeds and test items.
[Comparisons](compare.md) explains the verdicts; the project's card has all arms and metrics. DebCSE, VacancySBERT, Video QA and, in three places, LOL
are reconstructions from what could be read of the papers, so their verdicts are about our reading of the method.

{counts}

| project | claim | verdict | difference, 95 % interval | paper | measured at |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One claim.

    Attributes:
        project: slug.
        claim: text.
        verdict: one of `VERDICTS`, or "not run".
        difference: with its interval.
        paper: what the paper reports, from compare.yaml.
        below: training-free baselines that are better than the method.
        version: that it was measured at; empty if it has not run.
        too_small: inconclusive, and the interval excludes an effect as large as the paper's.
    """

    project: str
    claim: str
    verdict: str
    difference: str
    paper: str
    below: str = ""
    version: str = ""
    too_small: bool = False


def evidence_rows(projects: Sequence[str] | None = None) -> list[Row]:
    """The counted claims of compare.yaml with their published verdicts.

    Args:
        projects: slugs; None for all.
    """
    rows = []
    for project in projects if projects is not None else list_projects():
        published = {
            (comparison["name"], claim["claim"]): (claim, comparison["measured"]["version"])
            for comparison in read_results(project)
            for claim in (*comparison["claims"], *comparison["appendix"])
        }
        for spec in read_comparisons(project):
            for claim in claims_of(spec):
                if claim.appendix:
                    continue
                if (spec.name, claim.text) in published:
                    judged, version = published[spec.name, claim.text]
                    rows.append(_row(project, judged, claim.paper, version))
                else:
                    rows.append(Row(project, claim.text, NOT_RUN, "", claim.paper))
    return rows


def _row(project: str, claim: Mapping[str, Any], paper: str, version: str) -> Row:
    word = verdict_word(claim)
    return Row(
        project,
        claim["claim"],
        word,
        difference_text(claim),
        paper,
        ", ".join(sorted({low["baseline"] for low in claim["below"]})),
        version,
        word == "inconclusive" and bool(claim.get("published", {}).get("excluded")),
    )


def counts(rows: Sequence[Row]) -> str:
    """How many claims have which verdict, in a few sentences."""
    number = Counter(row.verdict for row in rows)
    words = [f"{number[word]} {word}" for word in VERDICTS]
    words += [f"{number[NOT_RUN]} {NOT_RUN}"] if number[NOT_RUN] else []
    text = f"{len(rows)} claims of {len({row.project for row in rows})} projects:"
    text += f" {', '.join(words)}."
    if below := sum(bool(row.below) for row in rows):
        text += f" In {below} a method is worse than the best training-free baseline."
    if small := sum(row.too_small for row in rows):
        text += (
            f" In {small} inconclusive cases the data rule out an effect as large as the paper's."
        )
    if ours := sum(row.paper.startswith("ours") for row in rows):
        text += f" {ours} claims are expectations of ours, the others are statements of the papers."
    return text


def verdict_counts(rows: Sequence[Row]) -> str:
    """How many claims of a project have which verdict.

    >>> verdict_counts([Row("x", "a > b", word, "", "") for word in ("supported", "not run")])
    '1 supported, 1 not run'
    """
    number = Counter(row.verdict for row in rows)
    words = [f"{number[word]} {word}" for word in (*VERDICTS, NOT_RUN) if number[word]]
    return ", ".join(words) or "no claims"


def evidence_page(rows: Sequence[Row]) -> str:
    """docs/evidence.md: what was tested, the counts, and a line for each claim."""
    lines = []
    for row in rows:
        cells = [
            f"[{row.project}](../projects/{row.project}/README.md)",
            escaped(row.claim),
            row.verdict + (f" (worse than {row.below})" if row.below else ""),
            row.difference,
            escaped(row.paper) or "not stated",
            row.version,
        ]
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD.format(counts=counts(rows)) + "".join(lines)


def project_table(
    projects: Mapping[str, str], fields: Mapping[str, str], rows: Sequence[Row]
) -> str:
    """Table of the README, by field, the largest field first.

    Args:
        projects: slug -> one line on the paper.
        fields: slug -> what the project is about.
        rows: all claims.
    """
    sizes = Counter(fields[slug] for slug in projects)
    lines = ["| field | project | paper | claims |", "|---|---|---|---|"]
    for slug in sorted(projects, key=lambda name: (-sizes[fields[name]], fields[name], name)):
        claims = verdict_counts([row for row in rows if row.project == slug])
        card = f"projects/{slug}/README.md"
        lines.append(
            f"| {fields[slug]} | [{slug}]({card}) | {projects[slug]} | [{claims}]({card}#results) |"
        )
    return "\n".join(lines) + "\n"


def write_evidence(rows: Sequence[Row]) -> list[str]:
    """Write docs/evidence.md with its image, and README's counts and table of projects.

    Returns:
        Names of the two documents.

    Raises:
        UserError: README.md lacks the markers of a part.
    """
    projects = list_projects()
    fields = {slug: field_of(slug) for slug in projects}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = _replace_part(readme, "evidence", counts(rows) + "\n")
    readme = _replace_part(readme, "projects", project_table(projects, fields, rows))
    write_text(ROOT / "README.md", readme)
    (ROOT / "docs/images").mkdir(parents=True, exist_ok=True)
    write_text(ROOT / "docs/images/evidence.svg", evidence_image(rows))
    write_text(ROOT / "docs/evidence.md", evidence_page(rows))
    return ["docs/evidence.md", "README.md"]


def _replace_part(text: str, name: str, content: str) -> str:
    """The text with `content` between the markers of that name."""
    part = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.S)
    if not part.search(text):
        raise UserError(
            f"README.md lacks '<!-- {name}:begin -->' ... '<!-- {name}:end -->': add it"
        )
    return part.sub(lambda match: match[1] + content + match[2], text)


# -- the evidence as an image -------------------------------------------------------------------

COLOURS = {
    "supported": "#2a9d55",
    "inconclusive": "#e0a526",
    "contradicted": "#c8402f",
    "not testable here": "#7a5fb0",
    NOT_RUN: "#ffffff",
}
SIDE, GAP, LINE, NAME, WIDTH, EDGE, TOP = 14, 4, 22, 150, 400, 8, 55  # pixels
COLUMNS = 2
FONT = "font-family='sans-serif' font-size='13'"
PLAIN, WORSE = "stroke='#777' stroke-width='0.8'", "stroke='#111' stroke-width='2.5'"


def evidence_image(rows: Sequence[Row]) -> str:
    """SVG: a line for each project and a square for each claim, its colour the verdict.

    A thick edge marks a method that is worse than the best training-free baseline. Browsers show
    the claim as the text of its square.
    """
    projects = list(dict.fromkeys(row.project for row in rows))
    height = -(-len(projects) // COLUMNS)
    shapes = _legend()
    for number, project in enumerate(projects):
        x, y = EDGE + number // height * WIDTH, TOP + number % height * LINE
        shapes.append(_text(x, y, escape(project)))
        claims = [row for row in rows if row.project == project]
        shapes += [_claim(row, x + NAME + i * (SIDE + GAP), y) for i, row in enumerate(claims)]
    size = COLUMNS * WIDTH + EDGE, TOP + height * LINE
    box = f"viewBox='0 0 {size[0]} {size[1]}' width='{size[0]}'"
    ground = f"<rect width='{size[0]}' height='{size[1]}' fill='#ffffff'/>"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {box}>"
    return "\n".join([head, ground, *shapes, "</svg>"]) + "\n"


def _claim(row: Row, x: int, y: int) -> str:
    title = escape(f"{row.claim}: {row.verdict} {row.difference}".strip())
    return _square(x, y, COLOURS[row.verdict], WORSE if row.below else PLAIN, title)


def _square(x: int, y: int, colour: str, edge: str, title: str = "") -> str:
    shape = f"<rect x='{x}' y='{y}' width='{SIDE}' height='{SIDE}' fill='{colour}' {edge}"
    return f"{shape}><title>{title}</title></rect>" if title else f"{shape}/>"


def _text(x: int, y: int, text: str) -> str:
    return f"<text x='{x}' y='{y + 12}' {FONT} fill='#333'>{text}</text>"


def _legend() -> list[str]:
    entries = [(word, colour, PLAIN) for word, colour in COLOURS.items()]
    entries.append(("worse than a training-free baseline", "#ffffff", WORSE))
    shapes, x, y = [], EDGE, 4
    for word, colour, edge in entries:
        width = SIDE + 22 + 7 * len(word)
        if x + width > COLUMNS * WIDTH:
            x, y = EDGE, y + LINE
        shapes += [_square(x, y, colour, edge), _text(x + SIDE + GAP, y, word)]
        x += width
    return shapes
