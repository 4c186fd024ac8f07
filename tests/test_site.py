"""The documentation site: strict build without a network, links, and the examples of its library
page.
"""

import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from common.config import ROOT
from common.registry import list_projects
from scripts import site
from scripts.site_docstrings import as_markdown

BLOCK = re.compile(r"```python\n(.*?)```", re.S)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self.loaded += [
            found[k] for k in ("src", "href") if k in found and tag in ("script", "img", "link")
        ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Page by its name, of a site that is built elsewhere than the user's."""
    folder = tmp_path_factory.mktemp("site")
    index = site.build(folder / "pages", folder / "site")
    return {
        p.relative_to(index.parent).as_posix(): Page(p.read_text(encoding="utf-8"))
        for p in index.parent.rglob("*.html")
    }


@pytest.mark.nightly  # tens of seconds: make faults
def test_every_card_and_room_has_a_page_and_every_link_leads_somewhere(pages):
    assert {f"papers/{p}.html" for p in list_projects()} <= pages.keys()
    assert {
        "index.html",
        "docs/library.html",
        "api/common.losses.html",
        "api/common.models.html",
    } <= pages.keys()
    assert "common.losses.image_text.ClipLoss" in pages["api/common.losses.html"].ids
    broken = []
    for name, page in pages.items():
        if name == "404.html":
            continue
        folder = name.rpartition("/")[0]
        for link in page.links:
            target, _, anchor = unquote(link).partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            place = (
                (ROOT / folder / target).resolve().relative_to(ROOT).as_posix() if target else name
            )
            if place not in pages or (
                anchor and anchor not in pages[place].ids and anchor != "__toc"
            ):
                broken.append((name, link))
    assert not broken


@pytest.mark.nightly  # tens of seconds: make faults
def test_a_page_loads_nothing_from_the_network(pages):
    for page in pages.values():
        assert not [x for x in page.loaded if x.startswith(("http:", "https:", "//"))]


def test_a_broken_link_stops_the_build(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "sources", lambda: {"index.md": tmp_path / "page.md"})
    monkeypatch.setattr(site, "NAVIGATION", {"Start": [("Overview", "README.md")]})
    monkeypatch.setattr(site, "API", ())
    monkeypatch.setattr(site, "list_projects", dict)
    monkeypatch.setattr(site, "linked", lambda text, *_: text)
    (tmp_path / "page.md").write_text("# Page\n\n[there](nowhere.md)\n")
    with pytest.raises(SystemExit):
        site.build(tmp_path / "pages", tmp_path / "site")
    (tmp_path / "page.md").write_text("# Page\n")
    assert site.build(tmp_path / "pages", tmp_path / "site").exists()


def test_links_to_pages_are_turned_and_links_to_sources_become_names():
    pages = {
        ROOT / "docs/runs.md": "docs/runs.md",
        ROOT / "projects/dcl/README.md": "papers/dcl.md",
    }
    text = "[runs](../../docs/runs.md#lock) [code](module.py) [`m`](module.py) [web](https://a.org)"
    found = site.linked(text, "papers/dcl.md", ROOT / "projects/dcl/README.md", pages)
    assert found == "[runs](../docs/runs.md#lock) `code` `m` [web](https://a.org)"


def test_docstrings_are_read_as_they_look():
    assert (
        as_markdown("x: >= 0.\n\n>>> f(1)[0][1]\n2")
        == "x: \\>= 0.\n\n```pycon\n>>> f(1)[0][1]\n2\n```"
    )
    assert as_markdown("[CLS] [SEP]") == "[CLS] \\[SEP]"
    assert as_markdown("E:\n\n    a[i][j]\n") == "E:\n\n    a[i][j]\n"


def test_the_examples_of_the_library_page_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = BLOCK.findall((ROOT / "docs/library.md").read_text(encoding="utf-8"))
    assert len(blocks) == 6
    names = {"__name__": "library"}
    for code in blocks:
        exec(compile(code, "docs/library.md", "exec"), names)
    assert float(names["out"].loss) < 4.0  # of 64 pairs at random: 4.2
