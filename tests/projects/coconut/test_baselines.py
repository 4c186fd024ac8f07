"""What COCONUT has to beat, on the made-up commands."""

import json
from types import SimpleNamespace

import pytest
import torch

from common.config import load
from common.engine.workspace import Workspace
from projects.coconut import Config, baselines
from projects.coconut.data import build_scenario
from projects.coconut.stages import Task
from tests.projects.coconut.conftest import config


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


def test_nearest_mean_knows_the_seen_classes_alone_and_is_the_mean_over_class_orders(
    tmp_path, monkeypatch
):
    """In loops; the deviations had been those of all classes, the order that of one seed."""
    cfg = config("data.order_by_seed=true", "seed=4")
    shared = Task(cfg)
    generator = torch.Generator().manual_seed(0)

    def features(spoken):  # each class is wide in a direction of its own
        width = 1 + 20 * torch.nn.functional.one_hot(spoken.labels % 4, 4)
        return spoken.labels[:, None] % 5 + width * torch.randn(len(spoken), 4, generator=generator)

    known = {id(s.spoken): features(s.spoken) for s in (shared.train, shared.test)}
    monkeypatch.setattr(baselines, "spectra", lambda spoken: known[id(spoken)])
    monkeypatch.setattr(baselines, "NUM_ORDERS", 2)
    actual = baselines.nearest_mean(cfg, Workspace(tmp_path))
    train, test = known.values()
    labels, expected = shared.train.spoken.labels, []
    means = [train[labels == c].mean(0) for c in range(12)]
    for seed in (4, 5):
        scenario = build_scenario(config("data.order_by_seed=true", f"seed={seed}"))
        for task in range(3):
            seen = scenario.seen(task)
            rows = [i for i, c in enumerate(labels.tolist()) if c in seen]
            spread = train[rows].std(0)
            right = []
            for x, c in zip(test, shared.test.spoken.labels.tolist(), strict=True):
                if c in seen:
                    far = {k: ((x - means[k]) / spread).norm() for k in seen}
                    right.append(min(far, key=far.get) == c)
            expected.append(sum(right) / len(right))
    assert expected[:3] != expected[3:]
    assert actual["avg_accuracy"] == pytest.approx(sum(expected) / 6)
    assert actual["last_accuracy"] == pytest.approx(expected[2])


def test_the_nearest_intent_follows_the_spectra_of_training_and_nothing_of_the_judged(monkeypatch):
    names = ["stop", "go", "stop", "go"]
    train, judged = (
        SimpleNamespace(targets=[SimpleNamespace(intent=name) for name in intents])
        for intents in (names, ["go", "go"])  # what is judged is labelled otherwise than it sounds
    )
    sounds = {
        id(train): [[1.0, 0], [-1.0, 1], [1.2, 1], [-1.2, 0]],
        id(judged): [[2.0, 0], [-3.0, 9]],
    }
    monkeypatch.setattr(baselines, "spectra", lambda spoken: torch.tensor(sounds[id(spoken)]))
    assert baselines.nearest_intents(train, judged) == ["stop", "go"]
