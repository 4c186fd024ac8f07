"""Pages of runs and comparisons: what is on them, and that they need nothing but themselves."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from common.config import ROOT, UserError
from common.engine.comparison import results
from common.engine.comparison.evidence import evidence_rows
from common.engine.report import contents, pages
from common.engine.report.pages import write_report, write_site
from common.engine.tracking import MetricsCSV
from common.engine.workspace import Workspace, write_json
from common.registry import list_projects

META = {
    "project": "demo",
    "config": "mini",
    "overrides": [],
    "started": "2026-01-01T10:00:00",
    "seed": 0,
    "num_steps": 3,
    "global_batch_size": 4,
    "parameters": 10,
    "commit": "a" * 40,
    "dirty": False,
    "hardware": {"gpu": None, "cpu": "one"},
    "wall_seconds": 1.0,
    "samples_per_second": 2.0,
}


class Page(HTMLParser):
    """Attributes of a page's elements, and whether each table may scroll."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.sources, self.images = [], [], [], []
        self.stack, self.loose_tables = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        actual = dict(attrs)
        self.ids += [actual["id"]] if "id" in actual else []
        self.links += [actual["href"]] if tag == "a" else []
        self.images += [actual] if tag == "img" else []
        self.sources += [
            v for k, v in attrs if k in ("src", "srcset") or (tag == "link" and k == "href")
        ]
        if tag == "table":
            self.loose_tables += self.stack[-1:] != ["wide"]
        if tag == "div":
            self.stack.append(actual.get("class", ""))

    def handle_endtag(self, tag):
        if tag == "div":
            self.stack.pop()


@pytest.fixture
def run(tmp_path):
    run = Workspace(tmp_path / "runs/demo/mini/r1", "demo", "mini")
    write_json(run.folder(".") / "meta.json", META)
    write_json(run.path / "metrics.json", {"score": 0.5, "score_chance": 0.1, "odd": None})
    log = MetricsCSV(run.path / "metrics.csv", "train")
    for step in range(3):
        log.log_metrics({"loss": 3.0 - step}, step)
    row = {
        "query": "a <cat>",
        "results": [{"item": Image.new("RGB", (4, 4)), "score": 0.9, "correct": True}],
    }
    run.gallery("text to image", [row])
    return run


def test_a_page_shows_curves_metrics_and_galleries(run, tmp_path):
    text = write_report(["demo"], tmp_path / "out", tmp_path / "runs").read_text()
    page = Page(text)
    assert sum(s.startswith("data:image/png") for s in page.sources) == 2
    assert "a &lt;cat&gt;" in text
    assert "<cat>" not in text
    assert "0.5000" in text
    with pytest.raises(UserError, match="nothing to report"):
        write_report(["absent"], tmp_path / "out", tmp_path / "runs")


def test_contents_lead_to_every_part_and_wide_tables_scroll(run, tmp_path):
    text = write_report(["demo"], tmp_path / "out", tmp_path / "runs").read_text()
    page = Page(text)
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert len(inside) == 2  # the run and its gallery
    assert set(inside) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert page.loose_tables == 0
    assert all(image["alt"] for image in page.images)
    assert 'name="viewport"' in text  # a phone's width is its own


def test_curves_name_their_axes(run, monkeypatch):
    figures = []
    monkeypatch.setattr(contents.Figure, "savefig", lambda self, *a, **k: figures.append(self))
    contents.project_contents("demo", run.path.parents[2])
    (axes,) = figures[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "step",
        "loss",
        "train/loss",
    )


def test_the_site_has_every_project_its_card_and_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "evidence_rows", lambda: evidence_rows(["lol", "hydra"]))
    index = write_site(tmp_path / "out", tmp_path / "none")
    page = Page(index.read_text())
    assert page.loose_tables == 0
    cards = [link for link in page.links if link.startswith("cards/")]
    assert cards == [f"cards/{slug}.html" for slug in list_projects()]
    for link in page.links:
        assert (index.parent / link).exists(), link
    for path in index.parent.rglob("*.html"):
        text = path.read_text()
        outside = [s for s in Page(text).sources if not s.startswith("data:")]
        folder = ROOT / "projects" / path.stem if path.parent.name == "cards" else path.parent
        assert all((folder / source).exists() for source in outside), (path, outside)
        assert "**" not in re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.S), path
        assert Page(text).loose_tables == 0, path


def test_html_in_a_card_is_text_and_links_start_at_its_folder(tmp_path, monkeypatch):
    card = tmp_path / "projects/demo/README.md"
    card.parent.mkdir(parents=True)
    card.write_text(
        "# demo\n<script>alert(1)</script>\n\n<!-- results:begin -->\n[c](compare.md)\n"
    )
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(results, "ROOT", tmp_path)
    actual = pages._with_text(
        contents.project_contents("demo", tmp_path / "runs"), tmp_path / "out"
    )
    text = (tmp_path / "out" / actual["card"]).read_text()
    assert "<script>" not in text
    assert "results:begin" not in text
    assert '<base href="../../projects/demo/">' in text
