"""The documentation site: a strict build without a network, and the examples of its library
page."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import markdown
import pytest

from common.config import ROOT
from common.registry import list_projects
from scripts.site.doctests import DoctestExtension
from scripts.site.pages import site_links

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
