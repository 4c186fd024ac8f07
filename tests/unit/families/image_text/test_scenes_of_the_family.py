"""Scenes in an experiment of the family that has no evaluation of its own."""

import pytest

from common.engine.workspace import Workspace, read_json
from common.families.image_text.evaluation import SHOWN, evaluate_image_text
from projects.laclip.module import LaCLIP
from tests.projects.laclip.conftest import config


def test_scenes_are_searched_by_unseen_queries(tmp_path):
    words = ["data.source=scenes", "data.texts=[original]", "eval.split=dev"]
    cfg = config(*words)
    metrics = evaluate_image_text(cfg, LaCLIP(cfg), Workspace(tmp_path), lambda: LaCLIP(cfg))
    assert 0 <= metrics["recall_at_1"] <= metrics["recall_at_10"] < 0.3  # untrained
    assert metrics["recall_at_10_chance"] == pytest.approx(10 / 200)
    assert len(read_json(tmp_path / "gallery/queries to scenes/gallery.json")) == SHOWN
