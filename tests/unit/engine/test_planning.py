"""The plan of a comparison: runs, minutes, and what it can resolve."""

import numpy as np
import pytest

from common.engine.comparison import planning, results
from common.engine.comparison.planning import POWER_ERRORS, make_plan
from common.engine.comparison.schema import Comparison
from tests.unit.engine.comparison_runs import FakeRun, result_of, spec_of

NOISE = [0.0, 0.1, 0.2, 0.3]


@pytest.fixture
def plan_of(tmp_path, monkeypatch):
    """`plan_of(values, seeds, ...)`: the plan of a > b with these seeds, given finished runs."""
    monkeypatch.setattr(results, "ROOT", tmp_path)

    def plan_of(values, seeds, items=None, jobs=1, claim="a > b"):
        spec = spec_of("ab", [claim])
        done = {
            arm: [
                FakeRun(tmp_path / "runs", arm, s, v, (items or {}).get(arm))
                for s, v in enumerate(own)
            ]
            for arm, own in values.items()
        }
        monkeypatch.setattr(planning, "_finished", lambda plan, name: done.get(name, []))
        runs = [
            FakeRun(tmp_path / "planned", arm, 10 + s, 0.0) for arm in "ab" for s in range(seeds)
        ]
        for run in runs:
            (run.path / "metrics.json").unlink()
        return make_plan("dcl", spec, ["a", "b"], runs, jobs)

    return plan_of


def test_minutes_are_those_of_finished_runs(plan_of):
    plan = plan_of({"a": NOISE, "b": [0.0] * 4}, 8)
    assert (plan.num_runs, plan.num_missing, plan.minutes) == (16, 16, 16.0)


def test_jobs_share_the_minutes(plan_of):
    assert plan_of({"a": NOISE, "b": [0.0] * 4}, 8, jobs=2).minutes == 8.0


def test_more_seeds_resolve_smaller_differences(plan_of):
    (one,) = plan_of({"a": NOISE, "b": [0.0] * 4}, 8).resolutions
    expected = POWER_ERRORS * np.std(NOISE, ddof=1) / np.sqrt(8)
    assert one.difference == pytest.approx(expected)
    assert "4 finished seeds, 8 planned, no items" in one.source


def test_noise_that_both_arms_share_does_not_count(plan_of):
    (one,) = plan_of({"a": NOISE, "b": NOISE}, 2).resolutions
    assert one.difference == pytest.approx(0.0)


def test_items_bound_what_seeds_can_resolve(plan_of):
    items = {"a": {"score": [0.0, 1.0] * 50}, "b": {"score": [0.0] * 100}}
    (one,) = plan_of({"a": [0.5] * 4, "b": [0.0] * 4}, 3, items=items).resolutions
    assert one.difference == pytest.approx(POWER_ERRORS * 0.05, rel=0.2)  # std .5 of 100 items
    assert "no items" not in one.source


def test_without_any_run_it_says_so(plan_of):
    plan = plan_of({}, 2)
    assert plan.minutes is None
    assert plan.resolutions[0].difference is None
    assert "minutes" in plan.lines()[0]
    assert "resolves unknown (nothing has run" in plan.lines()[1]


def test_a_published_result_stands_in(plan_of, tmp_path):
    result = result_of(tmp_path / "old", {"a": NOISE, "b": [0.0] * 4}, ["a > b"])
    results.write_results("dcl", [result])
    plan = plan_of({}, 8)
    assert plan.minutes == 16.0
    (one,) = plan.resolutions
    assert one.difference == pytest.approx(
        POWER_ERRORS * np.std(NOISE, ddof=1) / np.sqrt(8), rel=0.2
    )
    assert "noise of the result of" in one.source


def test_pilots_with_the_same_config_are_found(tmp_path):
    """Runs with other seeds count, runs with another config do not."""
    from common.engine.comparison.runs import PlannedRun

    spec = Comparison(metric="knn5_top1", base="smoke", arms={"a": {}, "b": {"optim.lr": 0.5}})
    words = [f"runs_dir={tmp_path}"]
    for run in (PlannedRun("dcl", spec, "a", 100, words), PlannedRun("dcl", spec, "b", 101, words)):
        folder = run.path.with_name(
            f"{run.stem.replace('compare-b', 'compare-a')}-01dc0de-20260101"
        )
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")
    actual = planning._finished([PlannedRun("dcl", spec, "a", 0, words)], "a")
    assert [run.seed for run in actual] == [100]
    assert actual[0].path.name.endswith("01dc0de-20260101")
