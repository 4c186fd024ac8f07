"""Baselines without training: their scores are those of their items; post-processing does its
work."""

import json

import numpy as np
import pytest
import torch

from common.config import load
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.values import ArmValues
from common.engine.workspace import Workspace
from common.evaluation.resampling import resample
from common.evaluation.text.pair_baselines import tfidf_cosine, word_overlap
from common.families.sentences import baselines
from projects.simcse.config import Config

NAMES = ["jaccard", "tfidf", "raw", "centred", "whitened", "untrained"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Metrics and workspace of every baseline on the smoke config."""
    cfg = load(Config, "simcse", "smoke")
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    with torch.inference_mode():
        return {
            name: (getattr(baselines, name)(cfg, Workspace(folder)), folder)
            for name, folder in folders.items()
        }


@pytest.mark.parametrize("name", NAMES)
def test_the_average_is_that_of_the_items_of_all_sets(evaluated, name):
    metrics, folder = evaluated[name]
    run = PlannedRun.__new__(PlannedRun)
    run.path = folder
    items = run.items("sts_average_spearman")
    values = ArmValues([0], {}, [None], {"sts_average_spearman": [items]})
    sets = values.scores("sts_average_spearman")
    assert [s.num_items for s in sets] == [64, 64]  # stsb-test and sts12, drawn apart
    (average,) = resample({name: sets}, num_samples=1)[0].values()
    assert average == pytest.approx(metrics["sts_average_spearman"])
    names = json.loads((folder / "items/sts_average_spearman.json").read_text())["mean_of"]
    assert names == ["stsb_test_spearman", "sts12_spearman"]
    assert average == pytest.approx(np.mean([metrics[n] for n in names]))


def test_post_processing_changes_the_geometry(evaluated):
    geometry = {name: evaluated[name][0] for name in ("raw", "centred", "whitened", "untrained")}
    assert geometry["raw"]["mean_cosine"] > 0.9  # a random transformer maps all texts alike
    assert geometry["centred"]["mean_cosine"] < 0.3
    assert geometry["whitened"]["uniformity"] < geometry["centred"]["uniformity"] - 0.1
    assert geometry["untrained"]["stsb_test_spearman"] != geometry["raw"]["stsb_test_spearman"]


def test_word_overlap_and_tfidf_by_hand():
    first, second = ["the red fox", "the cat", "a b"], ["the RED wolf", "the dog", "c d"]
    assert word_overlap(first, second) == [0.5, 1 / 3, 0.0]
    values = tfidf_cosine(first, second)
    # document frequencies of six texts: the 4, red 2, the others 1
    the, red, rare = (np.log(7 / (1 + df)) + 1 for df in (4, 2, 1))
    assert values[0] == pytest.approx((the**2 + red**2) / (the**2 + red**2 + rare**2))
    assert values[1] == pytest.approx(the**2 / (the**2 + rare**2))
    assert values[2] == 0.0
