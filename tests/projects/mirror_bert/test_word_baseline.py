"""What the arms of job titles have to beat without training."""

import json

import pytest

from common.config import load
from common.engine.workspace import Workspace
from projects.mirror_bert.baselines import tfidf_chars
from projects.mirror_bert.config import Config
from projects.mirror_bert.evaluate import LEVEL_SCORE


def test_characters_find_job_titles_without_training(tmp_path):
    """No score of sentences stands beside theirs."""
    cfg = load(Config, "mirror_bert", "mini", ["eval.num_titles=60"])
    actual = tfidf_chars(cfg, Workspace(tmp_path, "mirror_bert", "mini"))
    assert actual["esco_recall_at_1"] > 100 * actual["esco_recall_at_1_chance"]
    assert LEVEL_SCORE not in actual
    hits = json.loads((tmp_path / "items/esco_recall_at_1.json").read_text())
    assert sum(hits) / 60 == pytest.approx(actual["esco_recall_at_1"])
