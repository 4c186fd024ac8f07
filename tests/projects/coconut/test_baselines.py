"""What COCONUT has to beat, on the made-up commands."""

import json

import pytest

from common.config import load
from common.engine.workspace import Workspace
from projects.coconut import Config, baselines


@pytest.mark.parametrize("name", ["majority", "nearest_mean"])
def test_metrics_are_the_means_of_their_items(name, tmp_path):
    cfg = load(Config, "coconut", "smoke")
    metrics = getattr(baselines, name)(cfg, Workspace(tmp_path))
    for metric, value in metrics.items():
        items = json.loads((tmp_path / f"items/{metric}.json").read_text())
        assert value == pytest.approx(sum(items) / len(items))
    if name == "majority":
        tasks, classes = cfg.data.num_tasks, 12
        shares = [tasks / (classes * (task + 1)) for task in range(tasks)]
        assert metrics["avg_accuracy"] == pytest.approx(sum(shares) / tasks)
    else:  # tone words differ in their spectra
        assert metrics["last_accuracy"] > 0.5
