"""W&B: the workspace of a project and the run of a comparison."""

import json
import re
from unittest.mock import Mock

import pytest

from common.config import UserError, load
from common.engine import tracking
from common.engine.comparison.spec import read_comparisons
from common.engine.online import verdicts as online
from common.engine.online.dashboard import build, dashboard
from common.engine.workspace import Workspace
from common.registry import config_class
from tests.unit.engine.test_compare import HIGH, LOW, MIDDLE, result_of


def test_a_dashboard_shows_the_metrics_of_the_comparison_for_the_projects_runs():
    actual = dashboard("vacancysbert", "mini")
    (spec, *_) = read_comparisons("vacancysbert")
    bars = [panel["bar"] for panel in actual["sections"]["Results"]]
    assert bars[: 1 + len(spec.also)] == [f"test/{name}" for name in (spec.metric, *spec.also)]
    assert actual["tags"] == ["project:vacancysbert"]
    curves = [panel["curve"] for panel in actual["sections"]["Curves"]]
    assert any(re.search(curve, "train/loss") for curve in curves)
    assert not any(re.search(curve, "test/titles_recall_at_10") for curve in curves)
    json.dumps(actual)  # what DRY_RUN=1 prints


def test_without_the_library_the_way_out_is_said():
    pytest.importorskip("wandb")
    definition = dashboard("vacancysbert", "mini", ["tracking.entity=team"])
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="DRY_RUN=1"):
            build(definition)
        pytest.skip("wandb-workspaces is not installed (group 'dashboard')")
    workspace = build(definition)
    assert [s.name for s in workspace.sections] == ["Results", "Curves", "Machine"]
    assert "project:vacancysbert" in workspace.runset_settings.filters
    assert [key.name for key in workspace.runset_settings.groupby] == ["arm"]
    panels = [panel for section in workspace.sections for panel in section.panels]
    assert {panel.groupby.name for panel in panels} == {"arm"}


def test_a_run_has_its_arm_where_the_dashboard_groups_by_and_the_names_of_its_config(
    tmp_path, monkeypatch
):
    asked = {}
    monkeypatch.setattr(tracking, "Tracker", lambda **options: asked.update(options) or Mock())
    words = ["tracking.wandb=offline", "tracking.tags=[x,'arm:large']"]
    names = ["tracking.entity=my-team", "tracking.group=week 3", "tracking.name=first try"]
    for further in ([], names):
        cfg = load(config_class("dcl"), "dcl", "smoke", [*words, *further])
        tracking.wandb_logger(cfg, Workspace(tmp_path / "r1", "dcl", "smoke"))
        assert asked["config"][dashboard("dcl", "smoke")["group"]] == "large"
        assert {"x", "arm:large", "project:dcl"} <= set(asked["tags"])
        actual = asked["entity"], asked["group"], asked["name"]
        default = (None, "dcl-smoke", "dcl-smoke-r1")
        assert actual == (("my-team", "week 3", "first try") if further else default)


@pytest.mark.parametrize(
    "word",
    [
        "entity=my team",
        "entity=a/b",
        "wandb_project=a#b",
        "group=''",
        f"name={'x' * 129}",
        f"tags=[{'x' * 65}]",
    ],
)
def test_what_wandb_would_refuse_is_refused_before_training(word):
    with pytest.raises(UserError, match=f"tracking.{word.partition('=')[0]}"):
        load(config_class("dcl"), "dcl", "smoke", [f"tracking.{word}"])


class Logger:
    """Keeps what it is given."""

    lost = False

    def __init__(self):
        self.calls = {}

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.setdefault(name, []).append((args, kwargs))

    @property
    def folder(self):
        return "nowhere"


@pytest.fixture
def result(tmp_path):
    main = result_of(tmp_path / "a", {"a": HIGH, "b": MIDDLE}, ["a > b"])
    further = result_of(tmp_path / "b", {"c": LOW, "d": MIDDLE}, ["c > d"], name="second")
    return [main, further]


def test_a_tracked_comparison_logs_its_verdicts_table_and_picture(result, tmp_path, monkeypatch):
    logger, asked = Logger(), {}

    def opened(cfg, workspace, job_type):
        asked.update(job_type=job_type, path=workspace.path)
        return logger

    monkeypatch.setattr(online, "wandb_logger", opened)
    words = [f"runs_dir={tmp_path}", "tracking.wandb=offline"]
    folder = online.log_comparison("vacancysbert", result, words)
    assert asked == {"job_type": "compare", "path": folder}
    (claims,), (runs,) = (
        [c for c in logger.calls["log_table"] if c[0] == (name,)] for name in ("claims", "runs")
    )
    assert [row[:2] for row in claims[1]["data"]] == [
        ["a > b", "supported"],
        ["c > d", "contradicted"],
    ]
    assert len(runs[1]["data"]) == 2 * len(HIGH) + 2 * len(LOW)
    assert (folder / "comparison.png").stat().st_size > 1000
    (summary,) = logger.calls["log_metrics"]
    assert set(summary[0][0]) == {"test/a", "test/b", "test/second/c", "test/second/d"}
    assert "finish" in logger.calls


def test_nothing_is_logged_where_the_arms_are_not_tracked(result, tmp_path, monkeypatch):
    monkeypatch.setattr(online, "wandb_logger", lambda *a, **k: pytest.fail("was opened"))
    assert online.log_comparison("vacancysbert", result, [f"runs_dir={tmp_path}"]) is None
