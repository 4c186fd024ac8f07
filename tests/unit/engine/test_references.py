"""What stands next to a run's metrics, and that kept baselines follow data, settings and code."""

import json
import shlex

import pytest

from common import cli, make
from common.config import UserError
from common.engine.comparison import references
from common.engine.comparison.references import evaluate_baselines, headline, own_rows
from common.engine.comparison.schema import Comparison
from common.engine.terminal import table_lines
from tests.toy import baselines
from tests.toy.command import Command, use_toy

METRICS = {"accuracy": 0.6, "accuracy_chance": 0.1, "error": 2.0, "untrained_error": 4.0}
VALUES = {
    "weak": {"accuracy": 0.0, "error": 3.5},
    "strong": {"accuracy": 0.7, "error": 2.5},
    "answers": {"accuracy": 1.0, "error": 0.0},
    "untrained": {"accuracy": 0.2, "error": 9.0},
}


def comparison(**options):
    defaults = {"arms": {"a": {}}, "bounds": ["answers"], "baselines": list(VALUES)}
    return Comparison(metric="accuracy", also=["error"], **(defaults | options))


def test_rows_are_the_comparisons_metrics_with_what_they_are_read_against():
    accuracy, error = headline(METRICS, VALUES, comparison())
    assert (accuracy.metric, accuracy.value, accuracy.chance) == ("accuracy", 0.6, 0.1)
    assert accuracy.untrained == 0.2
    assert error.untrained == 4.0
    assert accuracy.baseline == ("strong", 0.7)  # a bound knows the answers
    assert error.baseline == ("strong", 2.5)  # its direction is unknown: of the same baseline
    assert error.chance is None


def test_the_best_baseline_follows_the_direction_of_its_metric():
    claim = {"left": "a", "right": "weak", "metric": "error", "direction": "min"}
    values = VALUES | {"low": {"accuracy": -1.0, "error": 1.0}}
    assert headline(METRICS, values, comparison(claims=[claim]))[1].baseline == ("low", 1.0)
    assert headline(METRICS, values, comparison(direction="min"))[0].baseline == ("low", -1.0)
    zero = {"only": {"accuracy": 0.0}}
    assert headline(METRICS, zero, comparison())[0].baseline == ("only", 0.0)


def test_at_most_eight_rows_and_other_metrics_where_none_is_the_comparisons():
    many = {f"m{i}": float(i) for i in range(20)} | {"untrained_m0": 1.0, "m0_chance": 0.5}
    rows = headline(many, {}, comparison())
    assert [row.metric for row in rows] == [f"m{i}" for i in range(8)]
    assert (rows[0].untrained, rows[0].chance, rows[0].baseline) == (1.0, 0.5, None)
    assert [row.metric for row in headline(many, {}, None)] == [f"m{i}" for i in range(8)]


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """The toy's baseline reads a file; returns its calls, and a function that evaluates it."""
    use_toy(monkeypatch)
    data, calls = tmp_path / "data", []
    (data / "deep").mkdir(parents=True)
    (data / "deep/level.txt").write_text("1")

    def constant(cfg, workspace):
        calls.append(cfg.seed)
        return {"spread": float((data / "deep/level.txt").read_text())}

    monkeypatch.setattr(baselines, "constant", constant)
    monkeypatch.setattr(references, "code_identity", lambda: "code")

    def evaluate(*words):
        overrides = [f"runs_dir={tmp_path}/runs", f"data.root={data}", *words]
        spec = references.comparison_of("toy", "smoke")
        values, problems = evaluate_baselines(spec, "smoke", overrides, {"spread": 1.0})
        assert problems == []
        return values["constant"]["spread"]

    return calls, evaluate, data / "deep/level.txt"


def test_a_baseline_is_evaluated_once_for_the_same_data_settings_and_code(counted, monkeypatch):
    calls, evaluate, _ = counted
    assert evaluate() == evaluate() == evaluate("optim.lr=0.5", "run_id=other") == 1.0
    assert len(calls) == 1
    evaluate("seed=4")
    evaluate("data.num_samples=32")
    assert calls == [0, 4, 0]
    monkeypatch.setattr(references, "code_identity", lambda: "changed code")
    evaluate()
    assert len(calls) == 4


def test_a_kept_baseline_does_not_outlive_its_data(counted):
    calls, evaluate, file = counted
    assert evaluate() == 1.0
    file.write_text("2.5")
    assert evaluate() == 2.5
    file.with_name("further.txt").write_text("")
    evaluate()
    assert len(calls) == 3


def test_values_for_more_files_than_can_be_looked_at_are_not_kept(counted, monkeypatch):
    calls, evaluate, _ = counted
    monkeypatch.setattr(references, "MAX_FILES", 0)
    evaluate()
    evaluate()
    assert len(calls) == 2


@pytest.mark.parametrize("kind", [UserError, KeyError, KeyboardInterrupt])
def test_a_baseline_that_fails_costs_a_line_and_not_the_table(tmp_path, monkeypatch, kind):
    use_toy(monkeypatch)

    def constant(cfg, workspace):
        raise kind("no labels in your file")

    monkeypatch.setattr(baselines, "constant", constant)
    spec = references.comparison_of("toy", "smoke")
    values, (line,) = evaluate_baselines(spec, "smoke", [f"runs_dir={tmp_path}"], {"spread": 1.0})
    assert values == {}
    assert "constant" in line
    assert ("no labels in your file" in line) == (kind is not KeyboardInterrupt)
    assert not (tmp_path / "toy/baselines").exists()


def test_train_ends_with_a_table_and_two_commands_that_work(tmp_path):
    trained = Command(tmp_path / "train", "train", "toy", "smoke", f"runs_dir={tmp_path}/my runs")
    assert trained.ends() == 0, trained.errors
    *table, report, export = trained.printed.splitlines()
    assert any(line.split()[0] == "spread" and "0.1000 constant" in line for line in table)
    run = next((tmp_path / "my runs/toy/smoke").iterdir())
    assert table[-1] == f"all metrics: {run / 'metrics.md'}"
    spread = json.loads((run / "metrics.json").read_text())["spread"]
    assert f"spread {spread:.4f}" in table[:2]  # before the baselines, which can take minutes
    assert shlex.split(report)[:3] == ["make", "report", "PROJECT=toy"]

    _, target, *typed = shlex.split(export)
    flags = " ".join(["", "--", *(word.replace(" ", "\\ ") for word in typed)])
    exported = Command(tmp_path / "e", *make.command(target, {"MAKEFLAGS": flags}, cli.VERBS))
    assert exported.ends() == 0, exported.errors
    assert (run / "export").is_dir()

    words = ("eval", "toy", "smoke", f"runs_dir={tmp_path}/my runs")
    evaluated = Command(tmp_path / "eval", *words)
    assert evaluated.ends() == 0, evaluated.errors
    assert evaluated.printed.splitlines()[-2:] == [report, export]


def test_no_name_is_broken_on_a_narrow_terminal():
    rows = [["known_keyword_recall_at_10", "0.1234", "0.2345 hypothesis_overlap_trees"]]
    heads = ["metric", "value", "best training-free"]
    for width in (80, 60):
        lines = table_lines(heads, rows, (1,), width)
        assert all(len(line) <= width for line in lines)
        for word in (rows[0][0], "0.1234", "0.2345 hypothesis_overlap_trees"):
            assert any(word in line for line in lines)
    assert len(table_lines(heads, rows, (1,), 80)) == 2


def test_what_the_run_has_measured_itself_is_not_evaluated_again(tmp_path, monkeypatch):
    use_toy(monkeypatch)
    for name in ("untrained", "chance"):
        monkeypatch.setattr(baselines, name, lambda *_: {"spread": 0.5}, raising=False)
    names = ["constant", "untrained", "chance"]
    spec = Comparison(metric="spread", baselines=names, base="smoke", project="toy")
    monkeypatch.setattr("common.engine.comparison.baselines.check_baseline", lambda *_: None)

    def evaluated(metrics):
        return set(evaluate_baselines(spec, "smoke", [f"runs_dir={tmp_path}"], metrics)[0])

    assert evaluated({"spread": 1.0}) == {"constant", "untrained", "chance"}
    assert evaluated({"spread": 1.0, "untrained_spread": 0.0}) == {"constant", "chance"}
    assert evaluated({"spread": 1.0, "spread_chance": 0.0}) == {"constant", "untrained"}


def test_rows_of_a_user_s_data_hold_start_best_baseline_and_chance():
    metrics = {
        "num_texts": 48.0,
        "top1": 0.7,
        "top1_chance": 0.25,
        "untrained_top1": 0.4,
        "raw_pixels_top1": 0.5,
        "bm25_top1": 0.6,
        "hybrid_top1": 0.9,  # merges the trained model with another: no baseline
        "untrained_hybrid_top1": 0.8,
    }
    values = {"tfidf": {"top1": 0.65}, "chance": {"num_texts": 1.0}}
    count, accuracy, hybrid = own_rows(metrics, values, None)
    assert (count.metric, count.baseline, count.chance) == ("num_texts", None, 1.0)
    assert (accuracy.value, accuracy.untrained, accuracy.chance) == (0.7, 0.4, 0.25)
    assert accuracy.baseline == ("tfidf", 0.65)
    assert (hybrid.metric, hybrid.value, hybrid.untrained) == ("hybrid_top1", 0.9, 0.8)
    rows = {"hr": 0.1, "weak_hr": 0.2, "very_strong_hr": 0.3, "strong_hr": 0.25}
    spec = comparison(baselines=["weak", "strong", "very_strong"], bounds=[])
    assert [row.baseline for row in own_rows(rows, {}, spec)] == [("very_strong", 0.3)]
    errors = {"forecast_l1": 2.0, "bm25_forecast_l1": 3.0, "tfidf_forecast_l1": 4.0}
    assert own_rows(errors, {}, None)[0].baseline == ("bm25", 3.0)  # smaller is better
    named = own_rows({"top1": 0.7, "strong_top1": 0.8}, {}, comparison())
    assert [row.baseline for row in named] == [("strong", 0.8)]
    assert own_rows({"top1": 0.7}, {"untrained": {"top1": 0.3}}, None)[0].untrained == 0.3
