"""Baselines of the image projects: pixels, the untrained network and chance, with items."""

import importlib
import json

import pytest
import torch

from common.config import load
from common.engine.workspace import Workspace


@pytest.mark.parametrize("project", ["dcl", "hydra", "cacr"])
def test_metrics_are_the_means_of_their_items(tmp_path, project):
    cfg = load(importlib.import_module(f"projects.{project}").Config, project, "smoke")
    baselines = importlib.import_module(f"projects.{project}.baselines")
    found = {}
    for name in ("raw_pixels", "untrained", "chance"):
        with torch.inference_mode():
            metrics = getattr(baselines, name)(cfg, Workspace(tmp_path / name))
        files = list((tmp_path / name / "items").glob("*.json"))
        assert {f.stem for f in files} >= {f"knn{cfg.eval.items_k}_top1"}
        for file in files:
            items = json.loads(file.read_text())
            assert metrics[file.stem] == pytest.approx(sum(items) / len(items))
        found[name] = metrics[f"knn{cfg.eval.items_k}_top1"]
    assert found["chance"] <= 0.5  # balanced classes
    assert found["raw_pixels"] > found["chance"]
    assert found["untrained"] > found["chance"]
