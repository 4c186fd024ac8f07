"""Thresholds, sides and layers: what the config says reaches scores, items and the student."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.data.text.pairs.readers import PairSet
from projects.dse import evaluate as evaluation
from projects.dse import module as method
from projects.dse.evaluate import against_teacher, embedding_metrics, part_metrics, speed
from projects.dse.module import DSE, build_scorer
from tests.projects.dse.conftest import config, student


class Kept:
    """A workspace that keeps items."""

    def __init__(self):
        self.kept = {}

    def items(self, name, values):
        self.kept[name] = values

    def rank_items(self, name, predicted, gold):
        self.kept[name] = predicted


def test_items_and_scores_have_the_thresholds_of_the_config_and_chance_is_the_largest_class():
    cfg = config("data.task=nli_binary", "eval.thresholds=[0.8,0.3]")
    logits, labels = torch.tensor([[1.0], [3.0], [-2.0]]), np.array([1, 1, 0])
    data, workspace = PairSet(["a"] * 3, ["b"] * 3, labels), Kept()
    metrics = part_metrics(cfg, "dev", data, logits, workspace)
    assert workspace.kept["dev_accuracy"] == [0.0, 1.0, 1.0]  # sigmoid(1) = .73
    assert metrics["dev_accuracy"] == pytest.approx(2 / 3)
    assert metrics["dev_accuracy_at_0.3"] == 1.0
    assert metrics["dev_accuracy_chance"] == pytest.approx(2 / 3)


def test_the_student_is_held_against_the_teacher_and_not_the_other_way(monkeypatch):
    cfg = config("data.task=nli_binary", "eval.thresholds=[0.8]")
    teacher, own = (
        torch.tensor([[3.0], [3.0], [-2.0], [9.0]]),
        torch.tensor([[1.0], [3], [-2], [2]]),
    )
    monkeypatch.setattr(evaluation, "teacher_logits", lambda *_: teacher)
    data = PairSet(["a"] * 4, ["b"] * 4, np.array([1, 1, 0, 1]))
    metrics = against_teacher(cfg, "dev", data, own)
    assert metrics["teacher_dev_accuracy"] == 1.0
    assert metrics["dev_relative_degradation"] == pytest.approx(0.25)
    assert metrics["dev_agreement"] == 0.75
    rest = (own - teacher).square().sum() / (teacher - teacher.mean()).square().sum()
    assert metrics["dev_logit_r2"] == pytest.approx(float(1 - rest))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_only_a_distilled_student_is_held_against_its_teacher(monkeypatch, alpha):
    asked = []
    monkeypatch.setattr(evaluation, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluation, "part_metrics", lambda *_: {})
    monkeypatch.setattr(evaluation, "against_teacher", lambda *_: asked.append(True) or {})
    pairs = PairSet(["a"], ["b"], np.array([1]))
    monkeypatch.setattr(evaluation, "task_pairs", lambda *_: pairs)
    module = DSE.__new__(DSE)
    torch.nn.Module.__init__(module)
    module.pair_logits = lambda *_: torch.zeros(1, 1)
    cfg = config(f"distill.alpha={alpha}", "eval.parts=[dev]")
    evaluation.evaluate_pairs(cfg, module, None)
    assert bool(asked) == (alpha > 0)


def test_mean_cosine_is_of_both_sides(monkeypatch):
    read = []
    sts = SimpleNamespace(first=["a"], second=["b"], scores=[1.0])
    monkeypatch.setattr(evaluation, "load_sts", lambda root, name: sts)
    monkeypatch.setattr(evaluation, "evaluate_sts", lambda encode, sets: ({}, {"stsb-test": [1.0]}))
    module = SimpleNamespace(
        scorer=SimpleNamespace(encode=lambda texts: read.append(texts) or torch.eye(2))
    )
    metrics = embedding_metrics(config("eval.sts=[stsb-test]"), module, Kept())
    assert read == [["a", "b"]]
    assert metrics["mean_cosine"] == pytest.approx(0.0)


def test_speed_has_candidates_for_the_largest_number(monkeypatch, tmp_path):
    asked = {}

    def measure(scorer, teacher, queries, candidates, *rest):
        asked.update(queries=len(queries), candidates=len(candidates))
        raise StopIteration

    monkeypatch.setattr(evaluation, "measure_costs", measure)
    with pytest.raises(StopIteration):
        speed(config("eval.speed.queries=3", "eval.speed.candidates=[2,9,4]"), student(), None)
    assert asked == {"queries": 3, "candidates": 9}


def test_the_student_s_encoder_and_head_are_those_of_the_config(monkeypatch):
    asked = {}
    build, head = method.layer_encoder, method.PairHead
    monkeypatch.setattr(
        method, "layer_encoder", lambda name, **rest: asked.update(rest) or build(name, **rest)
    )
    monkeypatch.setattr(
        method, "PairHead", lambda *args: asked.update(head=args[1:]) or head(*args)
    )
    words = ["student.pool.top_layers=1", "student.pool.use_cls=true", "student.pool.sqrt_len=true"]
    words += ["student.pool.dropout=0.3", "student.dropout=0.2", "data.max_length=20"]
    cfg = config("data.task=stsb", *words, "student.head.kind=dot")
    build_scorer(cfg)
    expected = {
        "top_layers": 1,
        "use_cls": True,
        "sqrt_len": True,
        "pool_dropout": 0.3,
        "dropout": 0.2,
        "max_length": 20,
    }
    assert {key: asked[key] for key in expected} == expected
    assert asked["head"] == ([], 1, "dot")


def test_labels_and_teacher_share_the_loss_by_alpha_and_thresholds_select():
    cfg = config("distill.alpha=0.3", "data.task=nli_binary", "eval.thresholds=[0.8]")
    module = DSE(cfg, build_scorer(cfg))
    assert module.objective.alpha == 0.3
    assert tuple(module.thresholds) == (0.8,)
