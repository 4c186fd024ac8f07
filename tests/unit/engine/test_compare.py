"""Comparisons: paired differences, verdicts, and what is published."""

import json

import pytest

from common.config import UserError
from common.engine import compare, results
from common.engine.compare import Comparison, pairs, summarise
from common.engine.report import write_report

META = {
    "num_steps": 5, "parameters": 10, "wall_seconds": 60.0, "commit": "a" * 40, "dirty": False,
    "hardware": {"cpu": "test", "cores": 2, "gpu": None}, "versions": {}, "seed": 0,
    "global_batch_size": 4, "samples_per_second": 3.0,
}  # fmt: skip


class FakeRun:
    """A finished run with given values."""

    config_hash = run_id = "c0ffee00"

    def __init__(self, folder, arm, seed, value, items=None):
        self.arm, self.seed, self.path, self._items = arm, seed, folder / f"{arm}-{seed}", items
        self.path.mkdir(parents=True)
        self._metrics = {"score": value, "score_chance": 0.1, "other": 1.0}
        (self.path / "meta.json").write_text(json.dumps(META))

    def metrics(self):
        return self._metrics

    def items(self, metric):
        return self._items


def judge(folder, method, baseline, items=(None, None), **options):
    spec = Comparison(metric="score", arms={"a": {}, "b": {"x.y": 1}}, claims=["a > b"], **options)
    plan = [FakeRun(folder, "a", s, v, items[0]) for s, v in enumerate(method)]
    plan += [FakeRun(folder, "b", s, v, items[1]) for s, v in enumerate(baseline)]
    return summarise("demo", spec, ["a", "b"], plan)


def test_verdicts_follow_the_paired_differences(tmp_path):
    better = judge(tmp_path / "1", [0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert better["claims"][0]["verdict"] == "supported"
    assert better["claims"][0]["difference"] == pytest.approx(0.1)
    mixed = judge(tmp_path / "2", [0.5, 0.4, 0.7], [0.4, 0.5, 0.6])
    assert mixed["claims"][0]["verdict"] == "not shown at this scale"
    worse = judge(tmp_path / "3", [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert worse["claims"][0]["verdict"] == "contradicted"


def test_where_less_is_better_the_direction_turns(tmp_path):
    result = judge(tmp_path, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6], direction="min")
    claim = result["claims"][0]
    assert (claim["claim"], claim["verdict"]) == ("a < b", "supported")
    assert claim["difference"] == pytest.approx(-0.3)
    assert claim["interval"][0] <= claim["difference"] <= claim["interval"][1]


def test_items_are_resampled_with_the_seeds(tmp_path):
    items = ([1.0, 0.0] * 20, [0.0, 1.0] * 20)
    claim = judge(tmp_path, [0.5] * 3, [0.4] * 3, items)["claims"][0]
    assert claim["resampled"] == "seeds x test items"
    assert claim["verdict"] == "not shown at this scale"  # the items disagree, the means do not


def test_a_metric_of_one_arm_only_is_an_empty_cell_elsewhere(tmp_path):
    result = judge(tmp_path, [0.5, 0.6], [0.4, 0.5], also=["extra"])
    result["arms"]["a"]["metrics"]["extra"] = [0.25, 0.75]
    rows = results.markdown(result).splitlines()
    assert any(row.startswith("| a |") and "0.5000 +- 0.3536" in row for row in rows)
    assert any(row.startswith("| b |") and row.endswith("|  | 1.0 |") for row in rows)


def test_one_seed_without_items_is_refused(tmp_path):
    with pytest.raises(UserError, match="SEEDS=3"):
        judge(tmp_path, [0.5], [0.4])


def test_unknown_metric_names_the_nearest(tmp_path):
    spec = Comparison(metric="scor", arms={"a": {}, "b": {}}, claims=["a > b"])
    plan = [FakeRun(tmp_path, arm, s, 0.1) for arm in "ab" for s in range(2)]
    with pytest.raises(UserError, match="did you mean 'score'"):
        summarise("demo", spec, ["a", "b"], plan)


def test_claims_are_chains_of_known_arms(tmp_path, monkeypatch):
    assert pairs("a > b > c") == [("a", "b"), ("b", "c")]
    with pytest.raises(UserError, match="arm > arm"):
        pairs("a")
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "compare.yaml").write_text("metric: m\narms: {a: {}, b: {}}\nclaims: [a > c]")
    monkeypatch.setattr(compare, "CONFIG_DIR", tmp_path)
    with pytest.raises(UserError, match="no arm 'c'"):
        compare.read_comparison("demo")


def test_publishing_writes_result_plot_and_card_and_the_report_shows_them(tmp_path, monkeypatch):
    import common.engine.report as report

    for module in (results, report):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    card = tmp_path / "projects/demo/README.md"
    card.parent.mkdir(parents=True)
    card.write_text("# demo\n<!-- results:begin -->\nnot run\n<!-- results:end -->\nrest\n")
    result = judge(tmp_path / "runs", [0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    results.publish("demo", result)
    text = card.read_text()
    assert "**a > b: supported**" in text
    assert "not run" not in text
    assert text.endswith("<!-- results:end -->\nrest\n")
    assert json.loads((tmp_path / "results/demo.json").read_text())["claims"] == result["claims"]
    assert (tmp_path / "results/demo.png").stat().st_size > 1000
    page = write_report(["demo"], tmp_path / "out", tmp_path / "none").read_text()
    assert "a &gt; b: supported" in page
    card.write_text("# no block")
    with pytest.raises(UserError, match="results:begin"):
        results.publish("demo", result)


def test_report_shows_curves_metrics_and_galleries(tmp_path, monkeypatch):
    from PIL import Image

    from common.engine.tracking import MetricsCSV
    from common.engine.workspace import Workspace, write_json

    run = Workspace(tmp_path / "runs/demo/mini/r1", "demo", "mini")
    write_json(run.folder(".") / "meta.json", META)
    write_json(run.path / "metrics.json", {"score": 0.5, "score_chance": 0.1, "odd": None})
    log = MetricsCSV(run.path / "metrics.csv", "train")
    for step in range(3):
        log.log_metrics({"train/loss": 3.0 - step}, step)
    row = {
        "query": "a cat",
        "results": [{"item": Image.new("RGB", (4, 4)), "score": 0.9, "correct": True}],
    }
    run.gallery("text to image", [row])
    page = write_report(["demo"], tmp_path / "out", tmp_path / "runs").read_text()
    assert page.count("data:image/png") == 2
    assert "a cat" in page
    assert "0.5000" in page
    with pytest.raises(UserError, match="nothing to report"):
        write_report(["absent"], tmp_path / "out", tmp_path / "runs")


def test_a_claim_may_name_its_own_metric_and_margin():
    from common.engine.compare import own_metric, pairs

    claim = "both > single (recall_at_1, margin 0.02)"
    assert pairs(claim) == [("both", "single")]
    assert own_metric(claim) == ("recall_at_1", 0.02)
    assert own_metric("both > single > none (recall_at_1)") == ("recall_at_1", None)
    assert own_metric("both > single") == (None, None)


def test_such_a_claim_is_judged_by_that_metric(tmp_path):
    def verdicts(claim, folder):
        spec = Comparison(metric="score", arms={"a": {}, "b": {}}, claims=[claim])
        plan = [FakeRun(folder, arm, s, v) for arm, v in (("a", 0.1), ("b", 0.4)) for s in range(3)]
        return summarise("demo", spec, ["a", "b"], plan)

    result = verdicts("a > b (other, margin 0.01)", tmp_path / "1")  # 1.0 in both arms
    (claim,) = result["claims"]
    assert (claim["verdict"], claim["metric"]) == ("supported", "other")
    assert claim["claim"] == "a > b in other - 0.01"
    assert "paired difference of other +0.0000" in results.markdown(result)
    (strict,) = verdicts("a > b (other)", tmp_path / "2")["claims"]
    assert strict["verdict"] == "not shown at this scale"
    (plain,) = verdicts("a > b", tmp_path / "3")["claims"]
    assert plain["verdict"] == "contradicted"
    with pytest.raises(UserError, match="no metric 'othr'; did you mean 'other'"):
        verdicts("a > b (othr)", tmp_path / "4")
