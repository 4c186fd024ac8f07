"""What README and docs/evidence.md say about the published comparisons."""

import json

from common.engine.checkpoint import mark_finished
from common.engine.comparison import results
from common.engine.comparison.pages import (
    Row,
    counts,
    evidence_page,
    project_table,
    read_results,
    verdict_counts,
)
from common.registry import field_of, list_projects
from tests.unit.engine.comparison_runs import FakeRun

CLAIMS = [
    {"claim": "a > b", "verdict": "supported", "difference": 0.125, "interval": [0.05, 0.2]},
    {
        "claim": "a > c",
        "verdict": "not shown at this scale",
        "metric": "other",
        "paper": "2.1 points",
    },
]
RESULT = {
    "claims": CLAIMS,
    "metric": "recall",
    "direction": "min",
    "base": "mini",
    "seeds": [3, 4],
    "date": "2026-01-02",
    "commit": "0123456789abcdef",
    "dirty": True,
}


def row(page: str, start: str) -> str:
    (found,) = [line for line in page.splitlines() if line.startswith(start)]
    return found


def test_counts_are_in_the_order_of_the_verdicts_and_keep_unknown_ones():
    verdicts = ["contradicted", "supported", "odd", "not testable here", "supported"]
    claims = [{"verdict": verdict} for verdict in verdicts]
    shown = verdict_counts({"claims": claims})
    assert shown == "2 supported, 1 contradicted, 1 not testable, 1 odd"
    assert verdict_counts({"claims": []}) == "no claims"
    further = {"claims": [{"verdict": "supported"}]}
    assert (
        verdict_counts({"claims": claims[:1], "more": [further]}) == "1 supported, 1 contradicted"
    )


def test_the_readme_counts_links_and_says_what_has_not_been_run():
    table = project_table(
        {"one": "One.", "two": "Two."}, {"one": RESULT}, dict.fromkeys(["one", "two"], "Texts")
    )
    counts = "[1 supported, 1 not shown](docs/evidence.md#one)"
    assert row(table, "| [one]") == f"| [one](projects/one/README.md) | One. | {counts} |"
    assert row(table, "| [two]").endswith("| not run |")
    assert "**" not in table
    assert table.startswith("### Texts\n\n| project |")


def test_the_table_has_a_part_for_each_field_the_largest_first():
    projects, fields = (
        dict.fromkeys("abc", "A paper."),
        {"a": "Speech", "b": "Images", "c": "Images"},
    )
    table = project_table(projects, {}, fields)
    assert [line for line in table.splitlines() if line.startswith("###")] == [
        "### Images",
        "### Speech",
    ]
    assert table.index("[b]") < table.index("[c]") < table.index("[a]")


def test_every_project_has_a_field():
    fields = {slug: field_of(slug) for slug in list_projects()}
    assert fields["simcse"] == "Sentence embeddings"  # by its family
    assert fields["trend"] == "LiDAR"  # stated by its docstring
    assert "Others" not in fields.values()


def claim(text, verdict, **more):
    base = {"here": "+0.1250", "paper": "", "below": "", "date": "2026-01-02", "state": "fresh"}
    return Row(project="one", claim=text, verdict=verdict, minutes=12.4, **base | more)


def test_the_page_has_a_row_for_each_claim():
    rows = [
        claim("a > b", "supported", below="overlap"),
        claim("a > c", "not run", here="", paper="2.1 points", date="", state="not run"),
    ]
    page = evidence_page(["one", "two"], {"one": RESULT}, rows)
    assert "config `mini`; lower is better; commit 0123456789 with local changes." in page
    assert row(page, "| a > b") == (
        "| a > b | supported (below overlap) | +0.1250 | not stated | 2026-01-02 | fresh | 12 |"
    )
    assert row(page, "| a > c") == "| a > c | not run |  | 2.1 points |  | not run | 12 |"
    assert "## two\n\n[Card](../projects/two/README.md).\n\nnot run\n" in page
    assert counts(rows) in page


def test_void_results_say_so_everywhere():
    void = {**RESULT, "void": "Void: another vocabulary."}
    projects = {"one": "One.", "two": "Two.", "three": "Three."}
    published = {"one": void, "two": RESULT, "three": void}
    table = project_table(projects, published, dict.fromkeys(projects, "Images"))
    assert "[void until re-run (was: 1 supported, 1 not shown)]" in row(table, "| [one]")
    assert "void" not in row(table, "| [two]")
    assert table.endswith("|\n\n**one, three**: Void: another vocabulary.\n")
    page = evidence_page(["one"], published, [claim("a > b", "supported")])
    assert "**Void: another vocabulary.**" in page
    assert "| void (was: supported) |" in row(page, "| a > b")


def test_the_table_of_a_card_begins_with_the_reason():
    arms = {"a": {"metrics": {"recall": [0.5]}, "wall_seconds": [1], "num_steps": 1}}
    hardware = {"gpu": None, "cpu": "some", "cores": 1}
    result = RESULT | {"arms": arms, "also": [], "claims": [], "note": "", "hardware": hardware}
    assert results.markdown(result).startswith("| arm |")
    assert results.markdown(result | {"void": "Void."}).startswith("**Void.**\n\n| arm |")


def test_results_are_read_by_project(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(RESULT))
    (tmp_path / "one.png").write_bytes(b"")
    assert read_results(tmp_path) == {"one": RESULT}


def test_a_baseline_named_chance_takes_the_place_of_the_row_of_chance_values():
    entry = {"metrics": {"m": [0.5], "m_chance": [0.1]}, "wall_seconds": [1.0]}
    baseline = {"metrics": {"m": [0.2]}, "wall_seconds": [1.0]}
    for baselines, value in (({}, "0.1000"), ({"chance": baseline}, "0.2000")):
        rows = results._table(["m"], {"a": entry}, baselines)
        (row,) = [row for row in rows if "*chance*" in row]
        assert value in row


def test_steps_of_all_stages_are_told_and_of_old_results_those_that_are_known():
    """Stages are read from a run's folder; a stage that isn't finished isn't counted."""
    old = {"a": {"num_steps": 5}, "b": {"num_steps": 10}}
    assert results.steps_text({"a": old["a"]}) == "5 steps each"
    assert results.steps_text(old) == "10 / 5 steps each"
    both = {"num_steps": 4, "stage_steps": {"pretrain": 4, "finetune": 2}}
    assert results.steps_text({"a": both, "b": both}) == "4 + 2 steps each"
    one = {"num_steps": 6, "stage_steps": {"finetune": 6}}
    assert (
        results.steps_text({"a": both, "b": one, "c": both}) == "steps by stage 4 + 2 (a, c), 6 (b)"
    )


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
