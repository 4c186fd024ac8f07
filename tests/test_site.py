"""The documentation site: a strict build without a network, and the examples of its library
page."""

import base64
import json
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import markdown
import pytest

from common.config import ROOT
from common.registry import list_projects
from scripts.site.doctests import DoctestExtension
from scripts.site.notebooks import notebook_page
from scripts.site.pages import repository_url, site_links, web_address

BLOCK = re.compile(r"```python\n(.*?)```", re.S)
LOADED = re.compile(
    r"""<(?:script|img|link)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of a site that is built elsewhere than the user's; warnings end the build."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def read(site: Path, page: str) -> str:
    return unescape((site / page).read_text(encoding="utf-8"))


class Page(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}


def broken_links(site: Path) -> list[tuple[str, str]]:
    """Page and target of every local link that leads nowhere."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            missing = target in pages and unquote(parts.fragment) not in pages[target].anchors
            ours = parts.fragment and not parts.fragment.startswith("__")  # of the theme's script
            if not target.exists() or (ours and missing):
                broken.append((path.name, link))
    return broken


def test_a_link_to_a_missing_page_or_anchor_is_broken(tmp_path):
    (tmp_path / "b.html").write_text('<h2 id="two">Two</h2>')
    links = ("b.html", "b.html#two", "b.html#three", "c.html", "https://example.org", "/b.html")
    text = "".join(f'<a href="{link}">a link</a>' for link in links)
    (tmp_path / "a.html").write_text(text)
    assert broken_links(tmp_path) == [("a.html", "b.html#three"), ("a.html", "c.html")]


@pytest.mark.slow
def test_no_link_of_the_site_is_broken(site):
    assert not broken_links(site)


@pytest.mark.slow
def test_equations_and_notebooks_are_in_the_site(site):
    assert r"\[" in read(site, "papers/rankgen.html")
    for path in (ROOT / "examples").glob("*.ipynb"):
        page, images = read(site, f"examples/{path.stem}.html"), notebook_page(path)[1]
        assert page.count("<img") == len(images), path
    for card in (ROOT / "projects").glob("*/README.md"):
        equations = card.read_text(encoding="utf-8").count("```math")
        page = (site / "papers" / f"{card.parent.name}.html").read_text(encoding="utf-8")
        assert page.count('<div class="arithmatex">') == equations, card
        assert "assets/katex/katex.min.js" in page
    assert (site / "assets/katex/fonts/KaTeX_Main-Regular.woff2").exists()


def test_a_notebook_is_a_page_with_its_outputs(tmp_path):
    png = base64.b64encode(b"png").decode()
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["a\n", "b\n"]},
        {"output_type": "stream", "name": "stderr", "text": ["a warning\n"]},
        {"output_type": "execute_result", "data": {"text/plain": "x", "text/html": "<b>x</b>"}},
        {"output_type": "display_data", "data": {"image/png": png, "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": "f()", "outputs": outputs},
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    page, images = notebook_page(path)
    assert page == (
        "# Title\ntext\n\n```python\nf()\n```\n\n```text\na\nb\n```\n\n"
        '<div class="output">\n<b>x</b>\n</div>\n\n![output](one-0.png)\n'
    )
    assert images == {"one-0.png": b"png"}


def test_the_repository_is_linked_where_it_is_known(monkeypatch):
    monkeypatch.setenv("REPO_URL", "https://example.org/lab/papers/")
    assert repository_url() == "https://example.org/lab/papers"
    monkeypatch.setenv("REPO_URL", "")
    assert repository_url() is None
    for remote in (
        "git@example.org:lab/papers.git",
        "ssh://git@example.org:22/lab/papers.git",
        "https://user:word@example.org/lab/papers",
    ):
        assert web_address(remote) == "https://example.org/lab/papers"
    for remote in ("", "/srv/papers", "../papers.git", "file:///srv/papers"):
        assert web_address(remote) is None


@pytest.mark.slow  # a minute or two
def test_cards_and_generated_pages_are_in_the_site(site):
    assert {p.stem for p in (site / "papers").glob("*.html")} == {*list_projects()}
    assert 'id="common.losses.image_text.ClipLoss"' in read(site, "api/common.losses.html")
    assert "ClipLoss" in read(site, "equations.html")
    assert "make check-all" in read(site, "cost.html")


@pytest.mark.slow
def test_a_page_loads_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        assert not LOADED.findall(page.read_text(encoding="utf-8")), page


def test_a_bound_at_the_start_of_a_description_is_text_and_a_doctest_code():
    html = markdown.markdown("> 0, a bound.\n\n>>> f(1)\n2\n", extensions=[DoctestExtension()])
    assert html == "<p>&gt; 0, a bound.</p>\n<pre><code>&gt;&gt;&gt; f(1)\n2\n</code></pre>"


def test_links_to_pages_are_turned_and_links_to_sources_become_names():
    card = ROOT / "projects/dcl/README.md"
    uris = {ROOT / "docs/runs.md": "runs.md", card: "papers/dcl.md"}
    text = "[runs](../../docs/runs.md#lock) [code](module.py) [`m`](module.py) [web](https://a.org)"
    assert site_links(text, card, "papers/dcl.md", uris) == (
        "[runs](../runs.md#lock) `code` `m` [web](https://a.org)"
    )
    assert site_links("[`m`](module.py)", card, "papers/dcl.md", uris, "https://a.org/x") == (
        "[`m`](https://a.org/x/blob/HEAD/projects/dcl/module.py)"
    )
    docs = site_links("[DCL](../projects/dcl)", ROOT / "docs/start.md", "start.md", uris)
    assert docs == "[DCL](papers/dcl.md)"


def test_the_examples_of_the_library_page_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = BLOCK.findall((ROOT / "docs/library.md").read_text(encoding="utf-8"))
    assert blocks
    names = {"__name__": "library"}
    for code in blocks:
        exec(compile(code, "docs/library.md", "exec"), names)
    assert float(names["out"].loss) < 4.0  # of 64 pairs at random: 4.2
