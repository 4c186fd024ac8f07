"""Instructions, splits and filters of the evaluation; what is counted and gathered in training."""

import pytest
import torch

from common.engine.workspace import Workspace
from projects.nv_embed import evaluate as evaluation
from projects.nv_embed.embedding_benchmark.sets import Classes, Retrieval
from projects.nv_embed.evaluate import Encoded, class_cosines, evaluate, planted_metrics
from projects.nv_embed.module import NvEmbed, own_class_negatives
from tests.projects.nv_embed.conftest import batch_of, config, encoder, module

TASK = Retrieval("find", ["what", "who"], ["a", "b", "c"], [{0}, {1}])


def test_texts_are_encoded_under_their_instruction():
    made = encoder().eval()
    encode = Encoded(made, 2)
    texts = ["men at work", "the old town", "men at work"]
    for instruction in ("find a house", ""):
        expected = made.encode(texts, 2, instruction=instruction)
        torch.testing.assert_close(encode(texts, instruction), expected)
    assert not torch.allclose(encode(texts, "find a house"), encode(texts, ""))


def test_cosines_of_classes_are_under_the_instruction_of_the_set():
    asked = []
    data = Classes("tell", [], [], ["a", "b"], [0, 1])
    class_cosines(lambda texts, words: asked.append(words) or torch.eye(2), data)
    assert asked == ["tell"]


def test_planted_positives_are_mined_with_the_split_the_filter_and_sides_of_the_config(monkeypatch):
    asked, mined_with = [], []

    class Mined:
        removed = 0.25

    def mine(queries, documents, right, count, *, ratio, **encoders):
        mined_with.append(ratio)
        for encode in encoders.values():
            encode(["x"])
        return Mined()

    monkeypatch.setattr(
        evaluation, "planted_task", lambda *args: asked.append(args) or (TASK, [set(), {2}])
    )
    monkeypatch.setattr(evaluation, "mine_text_negatives", mine)
    monkeypatch.setattr(
        evaluation, "planted_share", lambda mined, planted, among: asked.append(among) or 0.5
    )
    words = ["eval.split=dev", "eval.max_items=7", "data.mining.ratio=0.8"]
    instructions = []
    metrics = planted_metrics(config(*words), lambda texts, words: instructions.append(words))
    assert asked[0][1:] == (7, "dev")
    assert asked[1:] == [[1]] * 4  # of the queries that have a planted positive
    assert mined_with == [0.8, None] * 2
    assert instructions == ["find", ""] * 2
    assert metrics["mined_removed"] == metrics["bm25_removed"] == 0.25


def test_means_are_over_the_primary_tasks_and_counts_become_a_share(monkeypatch, tmp_path):
    primary = []

    def scores(encode_of, sets, names):
        primary.append(list(names))
        return {}, {}

    monkeypatch.setattr(evaluation, "score_sets", scores)
    monkeypatch.setattr(evaluation, "show_set", lambda *_: None)
    words = ["eval.tasks=[retrieval,sts]", "eval.primary=[sts]", "eval.untrained=false"]
    own = module(*words)
    own.own_class_seen.fill_(3)
    own.negatives_seen.fill_(12)
    metrics = evaluate(config(*words), own, Workspace(tmp_path))
    assert metrics["own_class_negatives"] == 0.25
    assert primary == [["sts"], ["sts"]]


def test_only_a_stage_with_batch_mates_gathers_and_masks_them():
    assert module(in_batch=True).objective.loss.gather
    assert not module("method.gather=false", in_batch=True).objective.loss.gather
    assert not module(in_batch=False).objective.loss.gather
    assert module("method.mask_own_class=true", in_batch=True).mask
    assert not module("method.mask_own_class=false", in_batch=True).mask


def test_classes_of_other_sets_are_not_the_own_and_only_training_is_counted():
    same, total = own_class_negatives(torch.tensor([0, 1, 1]), torch.tensor([4, 4, 4]))
    assert (int(same), total) == (2, 6)
    model = module(in_batch=True).eval()
    model.losses(batch_of(8))
    assert int(model.negatives_seen) == 0
    model.own_class_seen.fill_(5)
    later = NvEmbed(config(), model.encoder)
    later.continue_counts(model)
    assert int(later.own_class_seen) == 5


@pytest.mark.parametrize(("ratio", "expected"), [("null", 0.95), ("0.7", 0.7)])
def test_the_filter_is_measured_also_where_training_has_none(monkeypatch, ratio, expected):
    ratios = []

    class Mined:
        removed = 0.0

    monkeypatch.setattr(evaluation, "planted_task", lambda *_: (TASK, [{2}, set()]))
    monkeypatch.setattr(
        evaluation, "mine_text_negatives", lambda *_, ratio, **__: ratios.append(ratio) or Mined()
    )
    monkeypatch.setattr(evaluation, "planted_share", lambda *_, among: 0.0)
    planted_metrics(config(f"data.mining.ratio={ratio}"), lambda texts, words: None)
    assert ratios == [expected, None] * 2
