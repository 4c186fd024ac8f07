"""Runs that tables of many runs read."""

import pytest

from common.config import UserError
from common.engine.lifecycle.find import finished_runs, run_metrics, run_settings
from common.engine.workspace import write_json


def test_a_baseline_and_an_evaluation_of_other_weights_are_no_trained_runs(tmp_path):
    """A baseline has the settings of an arm, whose mean it would enter."""
    for name, config, meta in (
        ("run", True, {}),
        ("baseline", True, {"baseline": "b"}),
        ("eval-1", False, None),
    ):
        folder = tmp_path / "dse/mini" / name
        folder.mkdir(parents=True)
        write_json(folder / "metrics.json", {"accuracy": 0.5})
        if config:
            (folder / "config.yaml").write_text("seed: 1")
        if meta is not None:
            record = {"project": "dse", "config": "mini", "overrides": [], "started": "now"}
            write_json(folder / "meta.json", record | meta)
    (actual,) = finished_runs([], tmp_path, "dse")
    assert actual.name == "run"
    assert run_settings(actual) == {"seed": 1}
    assert run_metrics(actual) == {"accuracy": 0.5}
    named = finished_runs([str(tmp_path / "x")], tmp_path, "dse")
    with pytest.raises(UserError, match="not a run"):
        run_settings(named[0])
