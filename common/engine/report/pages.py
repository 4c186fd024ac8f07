"""Writing the pages: one per project, its card, and an index of all evidence."""

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt
from markupsafe import Markup

from common.config import ROOT, UserError
from common.engine.comparison.evidence import counts, evidence_rows, verdict_counts
from common.engine.report.contents import project_contents
from common.evaluation.tables import four_digits
from common.registry import list_projects

INDEX = "index.html"


def write_report(
    projects: Sequence[str], out: Path | None = None, runs: Path | None = None
) -> Path:
    """Write ``reports/<project>.html``; images are embedded, nothing else is needed.

    Args:
        projects: slugs; their contents go to one page, ``index.html`` if there are several.
        out: folder of the report; None: ``reports/``.
        runs: folder of the runs; None: ``runs/``.

    Returns:
        The HTML file.

    Raises:
        UserError: there is neither a run nor a comparison to show.
    """
    out, runs = out or ROOT / "reports", runs or Path("runs")
    shown = [_with_text(project_contents(slug, runs), out) for slug in projects]
    shown = [p for p in shown if _has_contents(p)]
    if not shown:
        raise UserError(f"nothing to report: no runs of {', '.join(projects)} under {runs}")
    alone = len(projects) == 1
    path = out / (f"{projects[0]}.html" if alone else INDEX)
    title = projects[0] if alone else "Runs and comparisons"
    home = INDEX if alone and (out / INDEX).exists() else None
    _write(path, "project.html", title=title, projects=shown, home=home)
    return path


def write_site(out: Path | None = None, runs: Path | None = None) -> Path:
    """Write a page of every project, its card, and an index with all claims that can be searched.

    Args:
        out: folder of the pages; None: ``reports/``.
        runs: folder of the runs; None: ``runs/``.

    Returns:
        ``index.html``.
    """
    out, runs = out or ROOT / "reports", runs or Path("runs")
    papers, rows = list_projects(), evidence_rows()
    shown = []
    for slug, paper in papers.items():
        contents = _with_text(project_contents(slug, runs), out)
        page = f"{slug}.html" if _has_contents(contents) else None
        if page:
            _write(out / page, "project.html", title=slug, projects=[contents], home=INDEX)
        verdicts = verdict_counts([row for row in rows if row.project == slug])
        shown.append({**contents, "paper": paper, "page": page, "verdicts": verdicts})
    _write(
        out / INDEX,
        "index.html",
        title="Contrastive representation learning, paper by paper",
        projects=shown,
        rows=rows,
        counts=counts(rows),
        home=None,
    )
    return out / INDEX


def _has_contents(contents: Mapping[str, Any]) -> bool:
    return any(contents[part] for part in ("runs", "evaluations", "comparison", "sweeps"))


def _with_text(contents: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Contents with their Markdown as HTML, and the project's card as a page beside."""
    slug, comparison = contents["slug"], contents["comparison"]
    card = ROOT / "projects" / slug / "README.md"
    page = {**contents, "card": None}
    if comparison is not None:
        page["comparison"] = {**comparison, "text": _html(comparison["markdown"])}
    page["sweeps"] = [{**s, "text": _html(s["markdown"])} for s in contents["sweeps"]]
    if card.exists():
        # links in a card are relative to its own folder
        base = Path(os.path.relpath(card.parent, out / "cards")).as_posix() + "/"
        text = _html(card.read_text(encoding="utf-8"))
        _write(out / "cards" / f"{slug}.html", "card.html", title=slug, text=text, base=base)
        page["card"] = f"cards/{slug}.html"
    return page


def _html(markdown: str) -> Markup:
    """HTML of Markdown whose own HTML is shown as text; wide tables scroll."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(_visible(markdown))
    return Markup(
        html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    )


def _visible(markdown: str) -> str:
    """Without the comments that mark generated parts, and nothing folded away."""
    lines = (line for line in markdown.splitlines() if not line.startswith("<!--"))
    return re.sub(r"<details[^>]*><summary>(.*)</summary>|</details>", r"\1", "\n".join(lines))


def _write(path: Path, template: str, **values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_templates().get_template(template).render(**values), encoding="utf-8")


@functools.cache
def _templates() -> Environment:
    environment = Environment(loader=PackageLoader("common.engine.report"), autoescape=True)
    environment.globals |= {"mark": _mark, "sign": _sign}
    environment.filters["number"] = four_digits
    return environment


def _sign(result: Mapping[str, Any]) -> str:
    """The same for those who do not tell the colours apart."""
    return {"hit": "✓", "miss": "✗"}.get(_mark(result), "")


def _mark(result: Mapping[str, Any]) -> str:
    """Style of a gallery's item; none where nothing is right or wrong."""
    return "" if "correct" not in result else "hit" if result["correct"] else "miss"
