"""Every claim with its verdict: rows, counts, the page, README's table and the image."""

from xml.etree import ElementTree

import pytest

from common.config import UserError
from common.engine.checkpoint import mark_finished
from common.engine.comparison import evidence, results
from common.engine.comparison.evidence import (
    COLOURS,
    NOT_RUN,
    VERDICTS,
    Row,
    behind_baseline,
    by_field,
    counts,
    evidence_image,
    evidence_page,
    evidence_rows,
    project_table,
    summary,
)
from common.registry import field_of, list_projects
from tests.unit.engine.comparison_runs import FakeRun, claim_entry, result_of, spec_of


def row(project, verdict="supported", **more):
    base = {"claim": "a > b", "difference": "+0.1", "paper": "ours", "version": "0.1.0"}
    return Row(project=project, verdict=verdict, **base | more)


def test_rows_are_the_counted_claims_with_their_published_verdicts(tmp_path, monkeypatch):
    """A claim that counts again after the appendix keeps its verdict; one without is not run."""
    monkeypatch.setattr(results, "ROOT", tmp_path)
    published = ["a > b", claim_entry("b > a", published=[3, 1])]
    values = {"a": [0.5, 0.6, 0.4], "b": [0.5, 0.5, 0.5], "c": [0.4, 0.4, 0.4]}
    result = result_of(tmp_path / "runs", values, published, baselines={"raw": 0.9})
    result["claims"], result["appendix"] = result["claims"][1:], result["claims"][:1]
    results.write_results("dcl", [result])
    spec = spec_of("abc", [*published, "a > c"], appendix=["b > c"])
    monkeypatch.setattr(evidence, "read_comparisons", lambda project: [spec])
    first, second, third = evidence_rows(["dcl"])
    assert (first.claim, first.verdict, first.below) == ("a > b", "inconclusive", "raw")
    assert (first.version, first.too_small) == (results.__version__, False)
    assert (second.verdict, second.too_small) == ("inconclusive", True)
    assert (third.claim, third.verdict, third.version) == ("a > c", NOT_RUN, "")


@pytest.mark.slow
def test_every_published_claim_is_listed():
    rows = evidence_rows()
    assert {row.verdict for row in rows} <= {*VERDICTS, NOT_RUN}
    published = [c for p in list_projects() for c in results.read_results(p)]
    assert sum(row.verdict != NOT_RUN for row in rows) == sum(len(c["claims"]) for c in published)


def test_counts_say_what_was_found():
    rows = [
        row("x"),
        row("x", "contradicted", below="overlap"),
        row("y", "inconclusive", paper="70 against 60", too_small=True),
        row("y", NOT_RUN),
    ]
    assert counts(rows) == (
        "4 claims of 2 projects: 1 supported, 1 inconclusive, 1 contradicted, 0 not testable here,"
        " 1 not run. In 1 a method is worse than the best training-free baseline. In 1 inconclusive"
        " cases the data rule out an effect as large as the paper's. 3 claims are expectations of"
        " ours, the others are statements of the papers."
    )
    assert counts([row("x")]).startswith("1 claims of 1 projects: 1 supported, 0 inconclusive")
    assert "worse" not in counts([row("x")])


def test_a_project_is_behind_where_a_baseline_without_training_is_better(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    values = {"a": [0.5], "b": [0.6]}
    for project, raw, more in (
        ("dcl", 0.7, {}),
        ("cacr", 0.55, {}),
        ("hydra", 0.7, {"bounds": ["raw"]}),
        ("mofi", 0.55, {"direction": "min"}),
        ("sepclr", 0.4, {"direction": "min"}),
    ):
        result = result_of(tmp_path / "runs" / project, values, ["a > b"], baselines={"raw": raw})
        results.write_results(project, [result | more])
    assert behind_baseline(["dcl", "cacr", "hydra", "mofi", "sepclr"]) == ["dcl", "sepclr"]


def test_the_page_has_a_summary_and_a_line_for_each_claim_by_field():
    rows = [row("one", below="tfidf", claim="a@* > b"), row("two", NOT_RUN, paper="", version="")]
    rows.append(row("three", "inconclusive", too_small=True, below="bm25"))
    fields = {"one": "Speech", "two": "Images", "three": "Images", "none": "Video"}
    page = evidence_page(rows, fields, 1)
    card = "[one](../projects/one/README.md)"
    line = rf"| {card} | a@\* > b | supported (worse than tfidf) | +0.1 | ours | 0.1.0 |"
    assert line in page.splitlines()
    assert "| a > b | not run | +0.1 | not stated |  |" in page
    assert "| inconclusive (paper's effect excluded; worse than bm25) |" in page
    assert summary(rows, 1) in page
    assert "3 claims of 3 papers" in summary(rows, 1)
    assert "1 are statements of the papers and 2 are expectations" in summary(rows, 1)
    assert page.index("## Images") < page.index("[two]") < page.index("## Speech")
    assert "## Video" not in page
    assert list(by_field(rows, fields)) == ["Images", "Speech"]


def test_the_readme_lists_projects_by_field_the_largest_first():
    projects = dict.fromkeys("abc", "A paper.")
    fields = {"a": "Speech", "b": "Images", "c": "Images"}
    table = project_table(projects, fields, [row("b"), row("b", "contradicted")])
    assert table.index("[b]") < table.index("[c]") < table.index("[a]")
    verdicts = "[1 supported, 1 contradicted](projects/b/README.md#results)"
    assert f"| Images | [b](projects/b/README.md) | A paper. | {verdicts} |" in table


def test_evidence_is_written_into_docs_and_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    readme = tmp_path / "README.md"
    parts = [
        f"<!-- {part}:begin -->\nold\n<!-- {part}:end -->" for part in ("evidence", "projects")
    ]
    readme.write_text("\n".join(["a", *parts, "b\n"]))
    assert evidence.write_evidence([row("dcl")]) == ["docs/evidence.md", "README.md"]
    text = readme.read_text()
    assert "old" not in text
    assert "1 claims of 1 projects: 1 supported" in text
    assert "| [1 supported](projects/dcl/README.md#results) |" in text
    assert text.endswith("<!-- projects:end -->\nb\n")


def test_a_readme_without_markers_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("no block")
    with pytest.raises(UserError, match="evidence:begin"):
        evidence.write_evidence([row("dcl")])
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_bar_of_the_image_is_as_long_as_its_claims_and_every_mark_has_a_legend():
    rows = [row("one"), row("one"), row("one", "contradicted", below="tfidf"), row("two", NOT_RUN)]
    root = ElementTree.fromstring(evidence_image(rows, {"one": "Speech", "two": "Images"}))
    space = {"svg": "http://www.w3.org/2000/svg"}
    boxes = root.findall("svg:rect", space)[1:]  # after the ground
    marks, bars = len(COLOURS) + 1, root.findall("svg:text", space)
    assert [b.get("fill") for b in boxes[: marks - 1]] == list(COLOURS.values())
    drawn = [(b.get("fill"), float(b.get("width"))) for b in boxes[marks:]]
    unit = drawn[0][1]  # of one claim: the field of equal size that comes first by name
    assert [colour for colour, _ in drawn] == [
        COLOURS[NOT_RUN],
        None,
        COLOURS["supported"],
        COLOURS["contradicted"],
        None,
    ]
    assert [width / unit for _, width in drawn] == pytest.approx([1, 0, 2, 1, 1], abs=0.01)
    assert {t.text for t in bars} >= {"Images", "Speech", "2 supported", "1 contradicted"}
    assert "1 worse than the best training-free baseline" in {t.text for t in bars}


def test_every_project_has_a_field():
    actual = {slug: field_of(slug) for slug in list_projects()}
    assert actual["simcse"] == "Sentence embeddings"
    assert actual["trend"] == "LiDAR"
    assert "Others" not in actual.values()


def test_a_run_knows_the_steps_of_its_finished_stages(tmp_path):
    run = FakeRun(tmp_path, "a", 0, 0.5)
    stages = [("second", 12), ("first", 300), ("unfinished", 9), ("of_another_run", None)]
    for order, (stage, step) in enumerate(stages):
        folder = run.path / "checkpoints" / stage
        folder.mkdir(parents=True)
        final = folder / "best.ckpt"  # of an earlier step, if there are any
        final.touch()
        for saved in [] if step is None else [step - 1, step]:
            (folder / f"step-{saved:08d}.ckpt").touch()
        if stage != "unfinished":
            mark_finished(folder, final, len(stages) - order)
    assert list(run.stage_steps().items()) == [("first", 300), ("second", 12)]
