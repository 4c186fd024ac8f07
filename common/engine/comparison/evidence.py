"""Every claim of every project with its verdict, for README, docs/evidence.md and the image."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from common.config import ROOT, UserError
from common.engine.comparison.cards import best_baseline, difference_text, escaped, verdict_word
from common.engine.comparison.claims import claims_of
from common.engine.comparison.results import read_results
from common.engine.comparison.spec import read_comparisons
from common.files import write_text
from common.registry import field_of, list_projects

VERDICTS = ("supported", "inconclusive", "contradicted", "not testable here")
NOT_RUN = "not run"
HEAD = """# Evidence

![A bar for each field: how many claims are supported, inconclusive, contradicted or not testable](images/evidence.svg)

{summary}

Below is one line for each claim. The difference has a 95 % bootstrap interval over seeds and test items. "Worse than"
gives the training-free baseline that scores better than the claim's method; "paper's effect excluded" means that the
interval rules out an effect as large as the paper's. [Comparisons](compare.md) defines the words, and each project's
card has all arms, metrics and data. DebCSE, VacancySBERT, video QA and parts of LOL are reconstructions from what
could be read of the papers.
"""
COLUMNS = """
## {field}

| project | claim | verdict | difference, 95 % interval | paper | measured at |
|---|---|---|---|---|---|
"""
SUMMARY = (
    "We tested {claims} claims of {projects} papers again, on bundled data and with models that a CPU trains in"
    " minutes. {theirs} are statements of the papers and {ours} are expectations of our own."
    " {supported} claims are supported, {inconclusive} inconclusive and {contradicted} contradicted; {untested}."
    " In {behind} of the {projects} projects the best trained model scores lower than the best baseline that needs"
    " no training."
    " Most of these work on text: the bundled text encoder has five million parameters and few texts to learn from."
    " Methods that count words, such as TF-IDF and BM25, are strong there."
    " So a verdict says whether one way of training beats another at this size. It does not recommend the method for"
    " the task, and it does not check the numbers that a paper reports at full size."
)


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


def behind_baseline(projects: Iterable[str]) -> list[str]:
    """Projects whose best arm is worse than `best_baseline` in their first comparison."""
    behind = []
    for project in projects:
        for comparison in read_results(project)[:1]:
            metric, baseline = comparison["metric"], best_baseline(comparison)
            arms = [row["metrics"][metric][0] for row in comparison["arms"].values()]
            if baseline is not None:
                value = comparison["baselines"][baseline]["metrics"][metric][0]
                better = max if comparison["direction"] == "max" else min
                if better([*arms, value]) not in arms:
                    behind.append(project)
    return behind


def summary(rows: Sequence[Row], behind: int) -> str:
    """What was tested and what came out, for a reader outside the project.

    Args:
        rows: all claims.
        behind: number of projects of `behind_baseline`.
    """
    number = Counter(row.verdict for row in rows)
    ours = sum(row.paper.startswith("ours") for row in rows)
    untested = f"{number['not testable here']} could not be tested at this size"
    if number[NOT_RUN]:
        untested += f", and the runs of {number[NOT_RUN]} are still to come"
    return SUMMARY.format(
        claims=len(rows),
        projects=len({row.project for row in rows}),
        theirs=len(rows) - ours,
        ours=ours,
        supported=number["supported"],
        contradicted=number["contradicted"],
        inconclusive=number["inconclusive"],
        untested=untested,
        behind=behind,
    )


def verdict_counts(rows: Sequence[Row]) -> str:
    """How many claims of a project have which verdict.

    >>> verdict_counts([Row("x", "a > b", word, "", "") for word in ("supported", "not run")])
    '1 supported, 1 not run'
    """
    number = Counter(row.verdict for row in rows)
    words = [f"{number[word]} {word}" for word in (*VERDICTS, NOT_RUN) if number[word]]
    return ", ".join(words) or "no claims"


def evidence_page(rows: Sequence[Row], fields: Mapping[str, str], behind: int) -> str:
    """docs/evidence.md: the image, the summary, and a line for each claim, by field.

    Args:
        rows: all claims.
        fields: slug -> what the project is about.
        behind: number of projects of `behind_baseline`.
    """
    text = HEAD.format(summary=summary(rows, behind))
    for field, claims in by_field(rows, fields).items():
        text += COLUMNS.format(field=field) + "".join(_line(row) for row in claims)
    return text


def _line(row: Row) -> str:
    remarks = ["paper's effect excluded"] if row.too_small else []
    remarks += [f"worse than {row.below}"] if row.below else []
    cells = [
        f"[{row.project}](../projects/{row.project}/README.md)",
        escaped(row.claim),
        row.verdict + (f" ({'; '.join(remarks)})" if remarks else ""),
        row.difference,
        escaped(row.paper) or "not stated",
        row.version,
    ]
    return f"| {' | '.join(cells)} |\n"


def by_field(rows: Sequence[Row], fields: Mapping[str, str]) -> dict[str, list[Row]]:
    """Claims by field, the field of most projects first."""
    sizes = Counter(fields.values())
    order = sorted(sizes, key=lambda field: (-sizes[field], field))
    grouped = {field: [row for row in rows if fields[row.project] == field] for field in order}
    return {field: claims for field, claims in grouped.items() if claims}


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
    write_text(ROOT / "docs/images/evidence.svg", evidence_image(rows, fields))
    page = evidence_page(rows, fields, len(behind_baseline(projects)))
    write_text(ROOT / "docs/evidence.md", page)
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
    "supported": "#1f8a4c",
    "inconclusive": "#b87d14",
    "contradicted": "#c43d2f",
    "not testable here": "#7a68b8",
    NOT_RUN: "#8c959f",
}
STYLE = (  # ground and ink by the reader's colour scheme
    "text{font:16px sans-serif}.number{font-weight:bold;fill:#fff}"
    ".ground{fill:#fff}.ink{fill:#1f2328}"
    "@media(prefers-color-scheme:dark){.ground{fill:#161b22}.ink{fill:#e6edf3}}"
)
WIDTH, EDGE, NAME, BAR, LINE = 590, 12, 224, 20, 38  # pixels; a phone shows two thirds of them
DIGIT = 10  # pixels of a digit
NOTE = "worse than the best training-free baseline"


def evidence_image(rows: Sequence[Row], fields: Mapping[str, str]) -> str:
    """SVG: a bar for each field, whose parts are the numbers of claims by verdict.

    A line below a bar is as long as the number of claims whose method is worse than the best
    training-free baseline. Ground and ink follow the reader's colour scheme.
    """
    grouped = by_field(rows, fields)
    unit = (WIDTH - NAME - EDGE) / max(map(len, grouped.values()), default=1)
    shapes, top = _legend(rows)
    for row, (field, claims) in enumerate(grouped.items()):
        shapes += _bar(field, claims, top + row * LINE, unit)
    height = top + len(grouped) * LINE
    box = f"viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'"
    head = f"<svg xmlns='http://www.w3.org/2000/svg' {box}><style>{STYLE}</style>"
    ground = f"<rect class='ground' width='{WIDTH}' height='{height}' rx='8'/>"
    return "\n".join([head, ground, *shapes, "</svg>"]) + "\n"


def _bar(field: str, claims: Sequence[Row], y: int, unit: float) -> list[str]:
    shapes, x = [_text(EDGE, y, escape(field))], float(NAME)
    number = Counter(row.verdict for row in claims)
    for word, colour in COLOURS.items():
        if number[word]:
            width = number[word] * unit
            shapes.append(_box(x, y, width, BAR, f"fill='{colour}'"))
            if width > DIGIT * (len(str(number[word])) + 0.5):
                middle = "class='number' text-anchor='middle'"
                shapes.append(_text(x + width / 2, y, str(number[word]), middle))
            x += width
    below = sum(bool(row.below) for row in claims)
    return [*shapes, _box(NAME, y + BAR + 3, below * unit, 4, "class='ink'")]


def _legend(rows: Sequence[Row]) -> tuple[list[str], int]:
    """Shapes, and where the first bar starts."""
    number = Counter(row.verdict for row in rows)
    shapes, x, y = [], EDGE, EDGE
    for word, colour in COLOURS.items():
        text = f"{number[word]} {word}"
        width = BAR + 26 + 9 * len(text)
        if x + width > WIDTH:
            x, y = EDGE, y + BAR + 8
        shapes += [_box(x, y, BAR, BAR, f"fill='{colour}'"), _text(x + BAR + 6, y, text)]
        x += width
    y += BAR + 8
    below = sum(bool(row.below) for row in rows)
    shapes += [_box(EDGE, y + BAR / 2 - 2, BAR, 4, "class='ink'")]
    shapes += [_text(EDGE + BAR + 6, y, f"{below} {NOTE}")]
    return shapes, y + BAR + 24


def _box(x: float, y: float, width: float, height: float, paint: str) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height}'"
    return f"<rect {place} {paint}/>"


def _text(x: float, y: float, text: str, style: str = "class='ink'") -> str:
    return f"<text x='{x:.1f}' y='{y + 16:.1f}' {style}>{text}</text>"
