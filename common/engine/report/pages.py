"""Writing the pages: one for each project, and an index of several."""

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
from common.engine.report.contents import project_contents
from common.evaluation.tables import four_digits
from common.files import write_text
from common.registry import list_projects

INDEX = "index.html"


def write_report(
    projects: Sequence[str], out: Path | None = None, runs: Path | None = None
) -> Path:
    """Write ``reports/<project>.html``; images are embedded, nothing else is needed.

    Args:
        projects: slugs; none: all that have runs.
        out: folder of the report; None: ``reports/``.
        runs: folder of the runs; None: ``runs/``.

    Returns:
        The page of a single project, otherwise ``index.html``, which links to the pages.

    Raises:
        UserError: there is neither a run nor a comparison to show.
    """
    out, runs = out or ROOT / "reports", runs or Path("runs")
    papers = list_projects()
    chosen = projects or [slug for slug in papers if (runs / slug).is_dir()]
    shown = [contents for slug in chosen if _is_shown(contents := _with_text(slug, runs, out))]
    if not shown:
        names = f"of {', '.join(projects)} " if projects else ""
        raise UserError(f"nothing to report: no runs {names}under {runs}")
    alone = len(projects) == 1
    home = INDEX if not alone or (out / INDEX).exists() else None
    for contents in shown:
        slug = contents["slug"]
        _write(out / f"{slug}.html", "project.html", title=slug, p=contents, home=home)
    if alone:
        return out / f"{projects[0]}.html"
    _write(out / INDEX, "index.html", title="Runs", projects=shown, papers=papers, home=None)
    return out / INDEX


def _is_shown(contents: Mapping[str, Any]) -> bool:
    return any(contents[part] for part in ("runs", "evaluations", "comparison", "sweeps"))


def _with_text(slug: str, runs: Path, out: Path) -> dict[str, Any]:
    """Contents of a page with their Markdown as HTML, and the place of the project's card."""
    page = project_contents(slug, runs)
    for part in (*page["sweeps"], *([page["comparison"]] if page["comparison"] else [])):
        part["text"] = _html(part["markdown"])
    card = ROOT / "projects" / slug / "README.md"
    page["card"] = Path(os.path.relpath(card, out)).as_posix() if card.exists() else None
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
    write_text(path, _templates().get_template(template).render(**values))


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
