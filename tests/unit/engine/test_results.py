"""Results: the two files, what readers see of them, and that verdicts follow from the values."""

import gzip
import json

import numpy as np
import pytest

from common import __version__
from common.config import UserError
from common.engine.comparison import cards, results
from common.engine.comparison.cards import markdown, publish, steps_text
from common.engine.comparison.claims import claims_of
from common.engine.comparison.results import judged, read_results, rounded, write_results
from common.engine.report import contents, pages
from common.engine.report.pages import write_report
from common.evaluation import resampling
from tests.unit.engine.comparison_runs import claim_entry, result_of, spec_of

LOW, MIDDLE, HIGH = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.5, 0.6, 0.7]


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """Enough for the verdicts here, at a thirtieth of the time."""
    monkeypatch.setattr(resampling, "MEAN_SAMPLES", 300)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository of its own, with the card of dcl."""
    for module in (results, cards, pages):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    card = tmp_path / "projects/dcl/README.md"
    card.parent.mkdir(parents=True)
    card.write_text("# dcl\n<!-- results:begin -->\nnot run\n<!-- results:end -->\nrest\n")
    return tmp_path


def test_verdicts_follow_from_the_values_that_are_kept(root):
    """The file alone gives difference, interval and verdict again, to the last digit."""
    rng = np.random.default_rng(0)
    items = {arm: {"score": rng.normal(mean, 1, 50).tolist()} for arm, mean in (("a", 1), ("b", 0))}
    values = {"a": [0.5, 0.6], "b": [0.4, 0.5]}
    result = result_of(root / "runs", values, ["a > b"], items=items, baselines={"copy": 0.55})
    write_results("dcl", [result])
    (kept,) = read_results("dcl", values=True)
    spec = spec_of("ab", ["a > b"], baselines=["copy"])
    again = judged(spec, claims_of(spec), kept["values"])
    assert again["claims"] == result["claims"]
    assert result["claims"][0]["resampled"] == "seeds and test items"
    assert kept["claims"] == rounded(result["claims"])
    changed = kept["values"]["b"].items["score"][0][0]
    changed[0] += 1.0
    assert judged(spec, claims_of(spec), kept["values"])["claims"] != result["claims"]


def test_the_same_result_is_written_as_the_same_bytes(root):
    result = result_of(root / "runs", {"a": HIGH, "b": MIDDLE}, ["a > b"])
    files = []
    for _ in range(2):
        write_results("dcl", [result])
        paths = results.result_path("dcl"), results.values_path("dcl")
        files.append([path.read_bytes() for path in paths])
    assert files[0] == files[1]
    values = json.loads(gzip.decompress(files[0][1]))
    assert values["main"]["a"]["metrics"]["score"] == HIGH
    write_results("dcl", read_results("dcl", values=True))  # as `ONLY=` does with the others
    assert results.values_path("dcl").read_bytes() == files[0][1]


def test_a_summary_is_short_lines_of_json(root):
    metrics = {arm: {f"metric_{i}": 1 / 3 for i in range(40)} for arm in "ab"}
    also = [f"metric_{i}" for i in range(40)]
    result = result_of(
        root / "runs", {"a": HIGH, "b": MIDDLE}, ["a > b"], metrics=metrics, also=also
    )
    write_results("dcl", [result])
    lines = results.result_path("dcl").read_text().splitlines()
    assert max(map(len, lines)) <= results.WIDTH
    assert len(lines) < 80  # several metrics a line
    assert "0.333333" in "".join(lines)
    assert "0.3333333" not in "".join(lines)


def test_a_result_says_where_it_was_measured(root):
    result = result_of(root / "runs", {"a": HIGH, "b": MIDDLE}, ["a > b"])
    measured = result["measured"]
    assert (measured["version"], measured["commit"]) == (__version__, "a" * 40)
    assert (measured["clean"], measured["minutes"]) == (True, 6.0)
    assert measured["design"] is None or len(measured["design"]) == 40  # None: a shallow clone
    text = markdown([result])
    assert f"Measured at {__version__} on test, {measured['date']}; config `mini`, 5 steps" in text
    assert "a" * 7 not in text


def test_a_comparison_without_git_has_no_design(root, monkeypatch):
    monkeypatch.setattr(results, "git", lambda *_: None)
    result = result_of(root / "runs", {"a": HIGH, "b": MIDDLE}, ["a > b"])
    assert result["measured"]["design"] is None


def test_local_changes_of_any_run_are_recorded(root, monkeypatch):
    from tests.unit.engine import comparison_runs

    monkeypatch.setitem(comparison_runs.META, "dirty", True)
    result = result_of(root / "runs", {"a": HIGH, "b": MIDDLE}, ["a > b"])
    assert not result["measured"]["clean"]


def test_a_card_has_six_columns_and_folds_further_metrics_away(tmp_path):
    metrics = {arm: {f"m{i}": 0.5 for i in range(8)} for arm in "ab"}
    also = [f"m{i}" for i in range(8)]
    result = result_of(tmp_path, {"a": HIGH, "b": LOW}, ["a > b"], metrics=metrics, also=also)
    tables = [line for line in markdown([result]).splitlines() if line.startswith("|")]
    assert max(line.count("|") for line in tables) == 7
    shown, folded = markdown([result]).split("<details")
    assert "m2" in shown
    assert "m3" not in shown
    assert all(f"m{i}" in folded for i in range(8))


def test_a_card_shows_arms_the_best_baseline_chance_and_claims(tmp_path):
    values, baselines = {"a": HIGH, "b": MIDDLE}, {"overlap": 0.65, "words": 0.6, "oracle": 0.9}
    entry = claim_entry("a > b", paper="table 3: 78.27 against 76.25", published=[78.27, 76.25])
    result = result_of(tmp_path, values, [entry, "b > a"], baselines=baselines, bounds=["oracle"])
    shown, folded = (part.splitlines() for part in markdown([result]).split("<details"))
    assert "| a | 0.600 ± 0.100 |" in shown
    assert "| *overlap* | 0.650 |" in shown
    assert "| *chance* | 0.100 |" in shown
    assert not [line for line in shown if "*words*" in line or "*oracle*" in line]
    assert "| a | 0.6000 ± 0.1000 | 1.0 |" in folded
    assert "| *words* | 0.6000 | 1.0 |" in folded
    assert "| *oracle* | 0.9000 | 1.0 |" in folded
    claim = next(line for line in shown if line.startswith("| a > b"))
    assert "| +0.1000 [+0.1000, +0.1000] |" in claim
    assert claim.endswith("| table 3: 78.27 against 76.25 | **supported** |")
    assert any(line.endswith("| not stated | **contradicted** |") for line in shown)
    below = "Worse than the best training-free baseline, overlap (score 0.6500): a (0.6000),"
    assert any(line.startswith(below) for line in shown)
    assert "relative size, +0.0132, lies outside the interval" in "\n".join(folded)


def test_a_card_shows_the_baselines_that_claims_are_about(tmp_path):
    baselines = {"overlap": 0.65, "words": 0.55}
    result = result_of(tmp_path, {"a": HIGH, "b": LOW}, ["a > words"], baselines=baselines)
    shown, _ = markdown([result]).split("<details")
    assert "| *words* | 0.550 |" in shown


def test_the_best_baseline_of_an_error_is_the_smallest(tmp_path):
    baselines = {"overlap": 0.65, "words": 0.55}
    result = result_of(tmp_path, {"a": HIGH, "b": LOW}, ["a > b"], baselines=baselines)
    assert cards.best_baseline(result) == "overlap"
    assert cards.best_baseline({**result, "direction": "min"}) == "words"
    assert cards.best_baseline({**result, "baselines": {}}) is None


@pytest.mark.parametrize(
    ("a", "options", "words"),
    [
        ([0.5, 0.4, 0.7], {}, "| **inconclusive** |"),
        ([0.5, 0.4, 0.7], {"published": [11, 10]}, "the interval alone says inconclusive; underp"),
        ([0.35, 0.6, 0.8], {"published": [1.3, 1]}, "+0.1500, lies inside the interval"),
        (
            LOW,
            {"not_testable": {"reason": "the queue holds one batch", "metric": "other"}},
            "the queue holds one batch (other: a 1, b 1); the interval alone says contradicted",
        ),
    ],
)
def test_readers_see_why_a_claim_is_open(tmp_path, a, options, words):
    result = result_of(tmp_path, {"a": a, "b": MIDDLE}, [claim_entry("a > b", **options)])
    text = markdown([result])
    assert words in text
    assert "not shown" not in text


def test_a_metric_of_one_arm_only_is_an_empty_cell_elsewhere(tmp_path):
    values, metrics = {"a": [0.5, 0.6], "b": [0.4, 0.5]}, {"a": {"extra": 0.25}}
    result = result_of(tmp_path, values, ["a > b"], also=["extra"], metrics=metrics)
    lines = markdown([result]).splitlines()
    assert any(line.startswith("| a |") and "0.2500 ± 0.0000" in line for line in lines)
    assert any(line.startswith("| b |") and line.endswith("|  | 1.0 |") for line in lines)
    with pytest.raises(UserError, match="did you mean 'score'"):
        result_of(tmp_path / "2", values, ["a > b"], metric="scor")


def test_a_baseline_called_chance_replaces_the_measured_levels(tmp_path):
    values = {"a": HIGH, "b": MIDDLE}
    for baselines, value in (({}, "0.1000"), ({"chance": 0.2}, "0.2000")):
        text = markdown([result_of(tmp_path / value, values, ["a > b"], baselines=baselines)])
        short, whole = [row for row in text.splitlines() if "*chance*" in row]
        assert value[:-1] in short
        assert value in whole


def test_steps_are_summed_over_the_stages_of_a_run():
    arms = {"a": {"steps": 5000}, "b": {"steps": 10}}
    assert steps_text({"a": arms["a"]}) == "5,000 steps"
    assert steps_text(arms) == "10 or 5,000 steps"
    both = {"steps": {"pretrain": 4, "finetune": 2}}
    assert steps_text({"a": both, "b": both}) == "4 + 2 steps"
    assert steps_text({"a": both, "b": {"steps": 6}, "c": both}) == (
        "steps by stage 4 + 2 (a, c), 6 (b)"
    )


def test_publishing_writes_files_plot_and_card_and_the_report_shows_them(root, monkeypatch):
    baselines = {"overlap": 0.2, "undefined": None}
    main = result_of(root / "runs", {"a": HIGH, "b": MIDDLE}, ["a > b"], baselines=baselines)
    further = result_of(root / "more", {"c": LOW, "d": MIDDLE}, ["c > d"], name="second")
    publish("dcl", [main, further])
    card = root / "projects/dcl/README.md"
    text = card.read_text()
    assert (
        text.index("| **supported** |")
        < text.index("second: 1 contradicted")
        < text.index("| c > d |")
    )
    assert "not run" not in text
    assert text.endswith("<!-- results:end -->\nrest\n")
    assert [c["name"] for c in read_results("dcl")] == ["main", "second"]
    assert (root / "results/dcl.png").stat().st_size > 1000
    page = write_report(["dcl"], root / "out", root / "none").read_text()
    assert "a &gt; b" in page
    assert "<strong>contradicted</strong>" in page
    assert contents.project_contents("absent", root)["comparison"] is None
    card.write_text("# no block")
    with pytest.raises(UserError, match="results:begin"):
        publish("dcl", [main])
