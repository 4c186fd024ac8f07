"""DCL's baselines: pixels, the untrained network and chance, with items."""

import json

import pytest
import torch

from common.config import load
from common.engine.workspace import Workspace
from projects.dcl import baselines
from projects.dcl.config import Config


@pytest.mark.parametrize("name", ["raw_pixels", "untrained", "chance"])
def test_the_metric_is_the_mean_of_its_items(tmp_path, name):
    cfg = load(Config, "dcl", "smoke")
    with torch.inference_mode():
        metrics = getattr(baselines, name)(cfg, Workspace(tmp_path))
    items = json.loads((tmp_path / "items/knn5_top1.json").read_text())
    assert metrics["knn5_top1"] == pytest.approx(sum(items) / len(items))
    assert {"knn5_top1", "linear_probe_top1"} <= metrics.keys()
    if name == "chance":
        assert metrics["knn5_top1"] == pytest.approx(1 / 8)  # balanced classes
    else:
        assert metrics["knn5_top1"] > 0.3
