"""Pages of runs and comparisons: what is on them, and that they need nothing but themselves."""

import os
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from matplotlib.figure import Figure
from PIL import Image

from common.config import ROOT, UserError, load
from common.engine.comparison.cards import plot
from common.engine.comparison.results import read_results
from common.engine.comparison.schema import Comparison
from common.engine.lifecycle.settings import resolved
from common.engine.report import contents, pages
from common.engine.report.pages import write_report
from common.engine.tracking import MetricsCSV
from common.engine.workspace import Workspace, write_json
from common.registry import config_class

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


def test_a_page_is_whole_wide_tables_scroll_and_a_phone_can_read_it(run, tmp_path):
    text = write_report(["demo"], tmp_path / "out", tmp_path / "runs").read_text()
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids) == 2  # the run and its gallery
    assert page.loose_tables == 0
    assert all(image["alt"] for image in page.images)
    assert 'name="viewport"' in text
    assert "img{max-width:100%" in text


def test_a_page_begins_with_the_latest_run_and_ends_with_the_published_comparison(
    run, tmp_path, monkeypatch
):
    (comparison,) = read_results("hydra")
    monkeypatch.setattr(contents, "read_results", lambda slug: [comparison])
    earlier = Workspace(tmp_path / "runs/demo/mini/r0", "demo", "mini")
    write_json(earlier.folder(".") / "meta.json", META)
    os.utime(earlier.path / "meta.json", (1, 1))
    text = write_report(["demo"], tmp_path / "out", tmp_path / "runs").read_text()
    body = text[text.index("<main>") :]
    parts = ["Run mini/r1", "Earlier run mini/r0", "Published comparison, measured at"]
    places = [body.index(part) for part in parts]
    assert places == sorted(places)
    assert all(body[:place].endswith("<summary>") for place in places[1:])


def test_metrics_stand_next_to_what_the_command_printed_and_results_are_marked(run, tmp_path):
    wrong = {"item": "a dog", "score": 0.5, "correct": False}
    right = {"item": "a cat", "correct": True}  # not every method has scores
    rows = [{"query": "cat", "results": [right, wrong]}, {"query": "cow", "results": [wrong]}]
    run.gallery("texts", rows)
    write_json(run.path / "metrics.json", {"spread": 0.5, "untrained_spread": 0.1, "many": 1.0})
    write_json(run.path / "baselines.json", {"constant": {"spread": 0.2}})
    run.note("BM25 alone, <the encoder> is switched off")
    spec = Comparison(metric="spread", baselines=["constant"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(contents, "comparison_of", lambda *_: spec)
        text = write_report(["demo"], tmp_path / "out", tmp_path / "runs").read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text, flags=re.S)
    plain = [re.sub(r"<[^>]*>", "", cell) for cell in cells]
    assert plain[:5] == ["spread", "0.5000", "0.1000", "0.2000 constant", ""]
    assert "<pre>BM25 alone, &lt;the encoder&gt; is switched off</pre>" in text
    assert "texts: 1 of 2 right at rank 1" in text
    assert text.count("✓") == text.count('class="hit"') == 2  # one is an image
    assert text.count("✗") == text.count('class="miss"') == 2


def test_settings_that_differ_from_the_config_are_listed():
    now = resolved(load(config_class("hydra"), "hydra", "mini", ["optim.lr=0.5", "seed=3"]))
    meta = {"project": "hydra", "overrides": ["optim.lr=0.5"], "resolved": now}
    changed = contents.changed_settings(meta, "mini")
    assert [(name, value) for name, _, value in changed] == [("optim.lr", 0.5), ("seed", 3)]
    gone = contents.changed_settings({**meta, "project": "gone"}, "mini")
    assert gone == [("optim.lr", "", "0.5")]


def test_curves_have_plain_titles_the_loss_first():
    points = [(1, 2.0), (2, 1.0)]
    names = ["train/lr", "val/sts_spearman", "train/loss", "sys/peak_memory_mib"]
    curves = {f"train/{name}": points for name in names}
    titles = [plot["title"] for plot in contents.curve_plots(curves)]
    assert titles == ["Training loss", "Validation: sts spearman", "Learning rate"]
    two = contents.curve_plots(curves | {"tune/train/loss": points})
    assert [plot["title"] for plot in two][:2] == ["Training loss (train)", "Training loss (tune)"]


def test_an_evaluation_with_other_settings_is_folded_under_its_run(run, tmp_path):
    place = Workspace(run.path / "eval-1", "demo", "mini")
    write_json(place.folder(".") / "metrics.json", {"own_recall": 0.75})
    about = {"model": str(run.path), "config": "mini", "overrides": ["eval.own=mine.csv"]}
    write_json(place.path / "evaluation.json", about)
    text = write_report(["demo"], tmp_path / "out", tmp_path / "runs").read_text()
    folded = text[text.index("<summary>Evaluation eval-1") :]
    assert "eval.own=mine.csv" in folded
    assert "0.7500" in folded


def test_several_projects_have_an_index_with_a_page_each(run, tmp_path, monkeypatch):
    (tmp_path / "runs/hydra").mkdir()
    out = tmp_path / "out"
    index = write_report([], out, tmp_path / "runs")  # hydra alone is a project of the registry
    assert Page(index.read_text()).links == ["hydra.html"]
    monkeypatch.setattr(pages, "list_projects", lambda: {"demo": "A paper", "hydra": "Another"})
    write_report([], out, tmp_path / "runs")
    assert Page(index.read_text()).links == ["demo.html", "hydra.html"]
    assert all((out / link).is_file() for link in ("demo.html", "hydra.html"))
    (card,) = (link for link in Page((out / "hydra.html").read_text()).links if "README" in link)
    assert (out / card).resolve() == ROOT / "projects/hydra/README.md"
    with pytest.raises(UserError, match="no runs under"):
        write_report([], out, tmp_path / "none")


def test_html_in_markdown_is_text_and_its_marks_are_left_out():
    html = pages._html("<script>alert(1)</script>\n\n<!-- results:begin -->\n**bold**\n")
    assert "<script>" not in html
    assert "results:begin" not in html
    assert "<strong>bold</strong>" in html


def test_labels_of_a_comparison_do_not_overprint(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self))
    (comparison,) = read_results("hydra", values=True)
    plot([comparison], tmp_path / "plot.png")
    figures[0].draw_without_rendering()
    (axes,) = figures[0].axes
    labels = [*axes.get_yticklabels(), *axes.texts]
    names = [label.get_text() for label in labels]
    assert names == [*comparison["arms"], *comparison["baselines"]]
    spans = sorted((box.y0, box.y1) for box in (label.get_window_extent() for label in labels))
    assert all(low <= high for (_, low), (high, _) in pairwise(spans))
