"""What the report says besides ranks: chance, before and after, cost, galleries, sizes of epochs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from common.engine.workspace import Workspace
from projects.rtd import data as data_module
from projects.rtd import evaluate as evaluation
from projects.rtd.data import triplet_source
from projects.rtd.drawings import Query
from projects.rtd.evaluate import Task, composed_gallery
from tests.projects.rtd.conftest import config, module_of


def task_of(count):
    images = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    return Task(
        images, list("abcdef")[:count], [Query(0, "is b", 1, "tone", "f")], list(range(count))
    )


def test_chance_leaves_the_reference_out_and_before_is_of_the_frozen_tower(monkeypatch, tmp_path):
    """One of the other pictures by chance; ``before_*`` asks the text tower of CLIP."""
    searched = task_of(6)._replace(gallery=list(range(5)))
    monkeypatch.setattr(evaluation, "task_of", lambda cfg: searched)
    monkeypatch.setattr(evaluation, "encode_task", lambda *_: None)
    for name in ("leave_behind", "official"):
        monkeypatch.setattr(evaluation, name, lambda *_: {})
    monkeypatch.setattr(
        evaluation, "task_metrics", lambda c, o, t, i, anchor=False: {"recall_at_1": float(anchor)}
    )
    module = module_of()
    actual = evaluation.evaluate(config(), module, Workspace(tmp_path))
    assert actual["recall_at_1_chance"] == 1 / 4
    assert (actual["recall_at_1"], actual["before_recall_at_1"]) == (0, 1)


def test_cost_is_told_by_what_each_part_trains():
    composer = SimpleNamespace(phi=nn.Linear(2, 3), student=nn.Linear(4, 5))
    module = SimpleNamespace(composer=composer, seconds={"phi": 7.0, "student": 2.5})
    assert evaluation.cost(module) == {
        "cost_host_parameters": 9,
        "cost_rtd_parameters": 25,
        "cost_host_seconds": 7,
        "cost_rtd_seconds": 2.5,
    }


def test_a_gallery_shows_no_reference_among_its_answers():
    """Nearest first, the target marked, under the sentence that was composed."""
    task, images = task_of(6), torch.eye(6)
    query = torch.nn.functional.normalize(torch.tensor([[0.9, 0.8, 0.1, 0.0, 0.0, 0.0]]), dim=1)
    (row,) = composed_gallery(task, query, images)
    condition, *answers = row["results"]
    assert condition["item"] == "a photo of $ that is b"
    assert [a["name"] for a in answers[:2]] == ["b", "c"]
    assert "a" not in {a["name"] for a in answers}
    assert [a["correct"] for a in answers[:2]] == [True, False]


def test_epochs_and_families_are_as_configured(monkeypatch):
    """`data.num_samples` triplets; a share of changes within a family; a rule starts from the
    caption of its place."""
    size, _ = triplet_source(config("data.num_samples=7"))
    captions = data_module.train_captions(config())
    assert (size, triplet_source(config())[0]) == (7, len(captions))
    monkeypatch.setattr(data_module, "read_drawings", lambda root: [])
    monkeypatch.setattr(data_module, "family_triplets", lambda drawings: [("family", "x", "y")])
    monkeypatch.setattr(data_module, "captions_of", lambda *_: captions)
    monkeypatch.setattr(data_module, "rules", lambda *_: lambda index, rng: "rule")
    for share in (0.0, 0.2, 1.0):
        cfg = config("data.source=drawings", "data.tagger=lemmas", f"data.family_share={share}")
        _, draw = triplet_source(cfg)
        drawn = [draw(i, np.random.default_rng(i)) != "rule" for i in range(300)]
        assert np.mean(drawn) == pytest.approx(share, abs=0.08)
