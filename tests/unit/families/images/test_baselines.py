"""Baselines of the image projects: pixels, the untrained network and chance, with items."""

import importlib
import json

import pytest
import torch

from common.config import load
from common.engine.workspace import Workspace
from common.families.images import baselines
from tests.placed import passes_within_evaluated


@pytest.mark.parametrize("project", ["dcl", "hydra", "cacr"])
def test_metrics_are_the_means_of_their_items(tmp_path, project):
    cfg = load(importlib.import_module(f"projects.{project}").Config, project, "smoke")
    baselines = importlib.import_module(f"projects.{project}.baselines")
    actual = {}
    for name in ("raw_pixels", "untrained", "chance"):
        with torch.inference_mode():
            metrics = getattr(baselines, name)(cfg, Workspace(tmp_path / name))
        files = list((tmp_path / name / "items").glob("*.json"))
        assert {f.stem for f in files} >= {f"knn{cfg.eval.items_k}_top1"}
        for file in files:
            items = json.loads(file.read_text())
            assert metrics[file.stem] == pytest.approx(sum(items) / len(items))
        actual[name] = metrics[f"knn{cfg.eval.items_k}_top1"]
    assert actual["chance"] <= 0.5  # balanced classes
    assert actual["raw_pixels"] > actual["chance"]
    assert actual["untrained"] > actual["chance"]


def test_an_untrained_encoder_is_placed_as_the_config_says(tmp_path, monkeypatch):
    """Pixels have no weights to be moved."""
    cfg = load(importlib.import_module("projects.dcl").Config, "dcl", "smoke")
    cfg.trainer.accelerator = "gpu"
    own = importlib.import_module("projects.dcl.baselines")
    seen = passes_within_evaluated(monkeypatch, baselines)
    own.raw_pixels(cfg, Workspace(tmp_path / "pixels"))
    assert not seen
    own.untrained(cfg, Workspace(tmp_path / "untrained"))
    assert {accelerator for _, accelerator in seen} == {"gpu"}
