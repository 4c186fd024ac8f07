"""W&B: the workspace of a project, and how its runs are named."""

import json
import re
from unittest.mock import Mock

import pytest

from common.config import UserError, load
from common.engine import tracking
from common.engine.comparison.spec import read_comparisons
from common.engine.dashboard import build, dashboard
from common.engine.workspace import Workspace
from common.registry import config_class


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
