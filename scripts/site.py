"""The documentation site: pages of docs/, the projects' cards and the API, as one static folder.

`make docs` builds it into ``build/site``. What it is made of stays where it lives: this gathers the
pages, turns links between them into links of the site, and writes a page for each module of the
API.
"""

import ast
import logging
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.registry import list_projects  # noqa: E402

PAGES, SITE = ROOT / "build" / "site-pages", ROOT / "build" / "site"
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
OPTIONS = "{heading_level: 3, show_root_heading: false, show_root_toc_entry: false}"
API = ("models", "losses", "kernels", "data", "encoders", "evaluation", "families", "export")
NAVIGATION: dict[str, list[tuple[str, str]]] = {
    "Start": [
        ("Overview", "README.md"),
        ("Ten minutes", "docs/start.md"),
        ("Your own data", "docs/your-data.md"),
        ("As a library", "docs/library.md"),
        ("Laptop to cluster", "docs/scaling.md"),
        ("Runs", "docs/runs.md"),
        ("Sweeps", "docs/sweeps.md"),
        ("Stages", "docs/stages.md"),
    ],
    "Evidence": [
        ("Claims", "docs/evidence.md"),
        ("Comparisons", "docs/compare.md"),
        ("Performance", "docs/performance.md"),
        ("Cost of the papers", "docs/cost.md"),
        ("Reliability", "docs/reliability.md"),
        ("Test times", "docs/test-times.md"),
    ],
    "Extend": [
        ("A paper in an afternoon", "docs/adding-a-project.md"),
        ("Architecture", "docs/architecture.md"),
        ("Kernels", "docs/kernels.md"),
        ("Equations", "docs/equations.md"),
        ("Size of the projects", "docs/sizes.md"),
        ("Dependencies", "docs/dependencies.md"),
        ("Contributing", "CONTRIBUTING.md"),
        ("Data and models", "data/README.md"),
        ("Changelog", "CHANGELOG.md"),
    ],
}


def sources() -> dict[str, Path]:
    """Page of the site -> file that it shows."""
    found = {}
    for _, entries in NAVIGATION.items():
        for _, name in entries:
            found["index.md" if name == "README.md" else name.lower()] = ROOT / name
    return found | {f"papers/{p}.md": ROOT / "projects" / p / "README.md" for p in list_projects()}


def linked(text: str, page: str, file: Path, pages: dict[Path, str], folder: Path = PAGES) -> str:
    """Text whose links lead to pages of the site; a link to any other file becomes its name.

    Args:
        text: Markdown.
        page: of the site.
        file: where the text comes from.
        pages: file -> page.
        folder: of the pages; pictures are copied there.
    """

    def replace(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        place = (file.parent / path).resolve()
        place = place / "README.md" if place.is_dir() and (place / "README.md") in pages else place
        if place not in pages:
            return label if label.startswith("`") else f"`{label}`"
        to = os.path.relpath(pages[place], os.path.dirname(page) or ".")
        return f"[{label}]({to}{'#' + anchor if anchor else ''})"

    def copied(match: re.Match[str]) -> str:
        picture = (file.parent / match[2]).resolve()
        name = "images/" + "-".join(picture.relative_to(ROOT).parts)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, folder / name)
        return f"![{match[1]}]({os.path.relpath(name, os.path.dirname(page) or '.')})"

    return IMAGE.sub(copied, LINK.sub(replace, text))


def rooms(package: str) -> dict[str, list[str]]:
    """Rooms below ``common.<package>``, each with its modules that define something public."""
    base = ROOT / "common" / package
    files = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    found: dict[str, list[str]] = {}
    for path in files:
        kinds = ast.FunctionDef | ast.ClassDef
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if any(isinstance(n, kinds) and not n.name.startswith("_") for n in body):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.setdefault(name.rpartition(".")[0] if base.is_dir() else name, []).append(name)
    return found


def gather(folder: Path = PAGES) -> list[dict[str, object]]:
    """Write all pages into a folder; returns mkdocs' navigation."""
    shutil.rmtree(folder, ignore_errors=True)
    files = sources()
    pages = {path.resolve(): page for page, path in files.items()}
    for page, path in files.items():
        out = folder / page
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(linked(path.read_text("utf-8"), page, path, pages, folder), encoding="utf-8")
    navigation: list[dict[str, object]] = [
        {title: [{label: n.lower()} for label, n in entries if n != "README.md"]}
        for title, entries in NAVIGATION.items()
    ]
    navigation.insert(0, {"Overview": "index.md"})
    navigation.insert(2, {"Papers": [{p: f"papers/{p}.md"} for p in list_projects()]})
    return [*navigation, {"API": [{f"common.{name}": _api(name, folder)} for name in API]}]


def _api(package: str, folder: Path) -> str | list[dict[str, str]]:
    """Pages of a package, one a room."""
    entries = []
    for room, names in rooms(package).items():
        page = f"api/{room}.md"
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        parts = [f"# {room}\n", *(f"\n## {n}\n\n::: {n}\n    options: {OPTIONS}\n" for n in names)]
        (folder / page).write_text("".join(parts), encoding="utf-8")
        entries.append({room.removeprefix("common."): page})
    return next(iter(entries[0].values())) if len(entries) == 1 else entries


def build(pages: Path = PAGES, out: Path = SITE) -> Path:
    """Gather the pages and build the site, strictly; returns its first page.

    Raises:
        SystemExit: a link leads nowhere, or a docstring names parameters that don't exist.
    """
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    navigation = gather(pages)
    config = load_config(
        str(ROOT / "mkdocs.yml"), nav=navigation, docs_dir=str(pages), site_dir=str(out)
    )
    build_site(config)
    return out / "index.html"


if __name__ == "__main__":
    print(
        f"{build().relative_to(ROOT)}; with search: python -m http.server -d"
        f" {SITE.relative_to(ROOT)}"
    )
