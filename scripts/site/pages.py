"""Hooks of mkdocs: what the site shows beyond ``docs/``.

``make docs`` builds the site from the files where they are. These hooks add the README, the
projects' cards, the notebooks and the generated pages (equations, cost, API), and turn links between
files of the repository into links between pages. KaTeX is in ``scripts/site/katex``, so that a site
without a network shows equations.
"""

import ast
import os
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from common.engine.cost import PAGE as COST
from common.registry import list_projects
from scripts.site.equations import equations_page
from scripts.site.notebooks import notebook_page

ROOT = Path(__file__).resolve().parents[2]
API = ("models", "losses", "kernels", "data", "encoders", "evaluation", "families", "export")
ASSETS = ("katex/katex.min.css", "katex/katex.min.js", "site.css", "math.js")  # in this order
MODULE = """
## {name}

::: {name}
    options: {{heading_level: 3, show_root_heading: false, show_root_toc_entry: false}}
"""
NO_COST = "# Cost of the papers\n\n`make check-all` measures it; then build the site again.\n"
FENCE = re.compile(r"(^```.*?^```)", re.M | re.S)
REMOTE = re.compile(
    r"(?:https?://(?:[^@/]*@)?|ssh://git@|git@)([^/:]+)(?::\d+)?[/:](.+?)(?:\.git)?/?"
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> None:
    """Append notebooks, cards and API to the navigation; add scripts, styles and repository."""
    notebooks = [notebook_uri(path) for path in notebook_files()]
    config.nav.append({"Notebooks": ["examples/index.md", *notebooks]})
    config.nav.append({"Papers": [{slug: f"papers/{slug}.md"} for slug in list_projects()]})
    sections = {name: [{p: f"api/{p}.md"} for p in api_packages(name)] for name in API}
    config.nav.append(
        {"API": [p[0] if len(p) == 1 else {f"common.{n}": p} for n, p in sections.items()]}
    )
    assets = [f"assets/{name}" for name in ASSETS]
    config.extra_css.extend(name for name in assets if name.endswith(".css"))
    config.extra_javascript.extend(name for name in assets if name.endswith(".js"))
    config.repo_url = repository_url()
    config.repo_name = config.repo_url and config.repo_url.rpartition("/")[2]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages and images from outside ``docs/``, and the generated pages."""
    for path, uri in outside_pages().items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
        for image, _, target in LINK.findall(path.read_text(encoding="utf-8")):
            place = (path.parent / target).resolve()
            if image and ROOT / "docs" not in place.parents:
                files.append(File.generated(config, image_uri(place), abs_src_path=str(place)))
    for path in notebook_files():
        content, images = notebook_page(path)
        files.append(File.generated(config, notebook_uri(path), content=content))
        for name, image in images.items():
            files.append(File.generated(config, f"examples/{name}", content=image))
    here = ROOT / "scripts/site"
    for path in (*(here / name for name in ASSETS), *here.glob("katex/fonts/*")):
        uri = f"assets/{path.relative_to(here).as_posix()}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    cost = COST.read_text(encoding="utf-8") if COST.exists() else NO_COST
    files.append(File.generated(config, "cost.md", content=cost))
    files.append(File.generated(config, "equations.md", content=equations_page(ROOT)))
    for name in API:
        for package, modules in api_packages(name).items():
            sections = "".join(MODULE.format(name=module) for module in modules)
            content = f"# {package}\n{sections}"
            files.append(File.generated(config, f"api/{package}.md", content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files that have a page become links to it; others lead to the repository."""
    notebooks = {path: notebook_uri(path) for path in notebook_files()}
    outputs = {ROOT / f.src_uri: f.src_uri for f in files if f.src_uri.startswith("examples/")}
    uris = {Path(f.abs_src_path): f.src_uri for f in files if f.abs_src_path}
    uris |= outputs | notebooks
    sources = {uri: path for path, uri in uris.items()}
    if page.file.src_uri not in sources:  # generated
        return markdown
    source = sources[page.file.src_uri]
    parts = FENCE.split(markdown)
    parts[::2] = [
        site_links(text, source, page.file.src_uri, uris, config.repo_url) for text in parts[::2]
    ]
    return "".join(parts)


def site_links(
    text: str, source: Path, uri: str, uris: dict[Path, str], repository: str | None = None
) -> str:
    """Markdown text with links of the site.

    A file without a page is linked in the repository; without a repository its name becomes code.

    Args:
        text: outside of fenced code.
        source: file that it comes from.
        uri: its page.
        uris: page or image by file.
        repository: its web address.
    """

    def replaced(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        place = (source.parent / path).resolve()
        place = place / "README.md" if place / "README.md" in uris else place
        if place not in uris and repository and ROOT in place.parents:
            return f"{image}[{label}]({repository}/blob/HEAD/{place.relative_to(ROOT).as_posix()})"
        if place not in uris:
            return label if label.startswith("`") else f"`{label}`"
        relative = os.path.relpath(uris[place], os.path.dirname(uri) or ".")
        return f"{image}[{label}]({relative}{'#' + anchor if anchor else ''})"

    return LINK.sub(replaced, text)


def repository_url() -> str | None:
    """``REPO_URL`` of the environment, else the web address of the remote ``origin``, else None."""
    if "REPO_URL" in os.environ:
        return os.environ["REPO_URL"].rstrip("/") or None
    words = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    return web_address(subprocess.run(words, capture_output=True, text=True).stdout.strip())


def web_address(remote: str) -> str | None:
    """Where a browser finds a repository; None of a folder of this machine.

    >>> web_address("git@example.org:lab/contrastive.git")
    'https://example.org/lab/contrastive'
    """
    match = REMOTE.fullmatch(remote)
    return f"https://{match[1]}/{match[2]}" if match else None


def notebook_files() -> list[Path]:
    """The notebooks of ``examples/``."""
    return sorted((ROOT / "examples").glob("*.ipynb"))


def notebook_uri(path: Path) -> str:
    """The page of a notebook."""
    return f"examples/{path.stem}.md"


def outside_pages() -> dict[Path, str]:
    """File outside ``docs/`` -> its page."""
    cards = {ROOT / "projects" / p / "README.md": f"papers/{p}.md" for p in list_projects()}
    return cards | {
        ROOT / "README.md": "index.md",
        ROOT / "CONTRIBUTING.md": "contributing.md",
        ROOT / "CHANGELOG.md": "changelog.md",
        ROOT / "data/README.md": "data.md",
        ROOT / "packaging/contrastive-losses/README.md": "contrastive-losses.md",
        ROOT / "examples/README.md": "examples/index.md",
    }


def image_uri(path: Path) -> str:
    """Where the site has an image from outside ``docs/``."""
    return "images/" + "-".join(path.relative_to(ROOT).parts)


def api_packages(name: str) -> dict[str, list[str]]:
    """Packages below ``common.<name>`` -> their modules that define something public."""
    base = ROOT / "common" / name
    packages: dict[str, list[str]] = {}
    for path in sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        kinds = ast.FunctionDef | ast.ClassDef
        if any(isinstance(node, kinds) and not node.name.startswith("_") for node in body):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            package = module.rpartition(".")[0] if base.is_dir() else module
            packages.setdefault(package, []).append(module)
    return packages
