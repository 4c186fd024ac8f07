"""What the rows of the table, gradients and the validation are given by the config."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from common.engine.workspace import Workspace
from projects.moe_embeddings import evaluate as evaluation
from projects.moe_embeddings.cocitation import Pair
from projects.moe_embeddings.data import PairTexts, training_data
from projects.moe_embeddings.evaluate import (
    encoder_embed,
    evaluate,
    gradient_cosines,
    judge_texts,
    reference_scores,
    tfidf_scores,
)
from tests.projects.moe_embeddings.conftest import TEXTS, config, encoder_of, module_of

PAIRS = {"red": [Pair("a", "b", 1, "red"), Pair("a", "c", 0, "red")]}


def test_the_part_of_the_config_is_scored_and_paired_with_the_untrained_row(monkeypatch, tmp_path):
    parts, paired = [], []
    trained, before = {"red": np.array([0.9, 0.1])}, {"red": np.array([0.2, 0.3])}
    monkeypatch.setattr(evaluation, "load_pairs", lambda cfg, part: parts.append(part) or PAIRS)
    monkeypatch.setattr(evaluation, "scores_of", lambda *_: trained)
    monkeypatch.setattr(evaluation, "scores_of_untrained", lambda *_: before)
    monkeypatch.setattr(evaluation, "paired_p", lambda a, b, pairs: paired.append((a, b)) or 0.5)
    monkeypatch.setattr(evaluation, "table", lambda *_: "")
    words = ["eval.part=valid", "eval.gradients=false", "eval.lexical=false"]
    evaluate(config(*words, "eval.wrong_routing=false"), module_of(), Workspace(tmp_path))
    assert parts == ["valid"]
    assert paired == [(trained, before)]


@pytest.mark.parametrize("turn", [0, 1])
def test_wrong_routing_turns_the_experts(monkeypatch, turn):
    encoder, asked = encoder_of(), []
    monkeypatch.setattr(
        encoder, "encode", lambda texts, domain, size, *, experts: asked.append(experts)
    )
    encoder_embed(config(), encoder, turn)(["x", "y"], "blue")
    assert asked == [[(2 + turn) % 3] * 2]


def test_references_have_pooling_and_length_of_the_config(monkeypatch):
    asked = {}

    class Reference:
        def encode(self, texts, size, *, normalize):
            asked.update(normalize=normalize, size=size)

    def build(place, pooling, *, max_length):
        asked.update(place=place, pooling=pooling, max_length=max_length)
        return Reference()

    monkeypatch.setattr(evaluation, "sentence_encoder", build)
    monkeypatch.setattr(evaluation, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluation, "scores_of", lambda embed, pairs: embed(["x"], "red"))
    words = ["eval.reference_pooling=last_token", "data.max_length=17", "eval.batch_size=3"]
    reference_scores(config(*words), "elsewhere", PAIRS)
    assert asked == {
        "place": "elsewhere",
        "pooling": "last_token",
        "max_length": 17,
        "normalize": True,
        "size": 3,
    }


def test_words_of_tfidf_are_bounded(monkeypatch):
    asked = []
    monkeypatch.setattr(
        evaluation,
        "tfidf_vectors",
        lambda texts, **options: asked.append(options) or (csr_matrix(np.eye(len(texts))), None),
    )
    tfidf_scores(PAIRS)
    assert asked == [{"max_features": 4096}]


def test_enforced_experts_share_no_gradient_and_pairs_are_positive(monkeypatch):
    read = []

    class Watched(PairTexts):
        def __init__(self, pairs, *rest):
            read.extend(pair.label for pair in pairs)
            super().__init__(pairs, *rest)

    mixed = {
        name: [Pair(TEXTS[i], TEXTS[i + 1], 1 - i % 2, name) for i in range(3)]
        for name in ("red", "blue")
    }
    monkeypatch.setattr(evaluation, "load_pairs", lambda *_: mixed)
    monkeypatch.setattr(evaluation, "PairTexts", Watched)
    metrics = gradient_cosines(config(), module_of())
    assert metrics["gradient_cosine"] == 0
    assert abs(metrics["shared_gradient_cosine"]) > 1e-3
    assert set(read) == {1}


def test_texts_of_a_user_are_means_over_the_domains(tmp_path):
    module, vectors = module_of().eval(), {}
    with torch.no_grad():
        for parameter in module.encoder.parameters():  # experts start as copies
            parameter.add_(0.1 * torch.randn_like(parameter))

    def judge(rows, workspace, path):
        with rows[""] as encode:
            vectors["own"] = encode(TEXTS)
        return {}

    judge_texts(config(), judge, module, Workspace(tmp_path), tmp_path)
    with torch.no_grad():
        expected = module.encoder.encode(TEXTS)
        red = module.encoder.encode(TEXTS, "red")
    torch.testing.assert_close(vectors["own"], expected)
    assert not torch.allclose(expected, red, atol=1e-4)


def test_a_run_validates_on_its_own_domains_and_swaps_as_often_as_asked():
    data = training_data(config("data.train_domains=[blue]", "data.swap_prob=0.25"), encoder_of())
    assert {pair.domain for pair in data.val_sets["pairs"].pairs} == {"blue"}
    assert data.train_set.swap_prob == 0.25


@pytest.mark.parametrize(("monitor", "sign"), [("f1", 1), ("loss", -1)])
def test_training_stops_without_gain_in_what_is_monitored(monitor, sign):
    words = ["method.patience=3", f"method.monitor={monitor}"]
    (stop,) = module_of(*words).configure_callbacks()
    assert (stop.monitor, stop.patience, stop.sign) == (f"val/{monitor}", 3, sign)


def test_a_learned_temperature_stays_positive_after_a_step():
    module = module_of("method.temperature=0.5", "method.learn_temperature=true")
    module.objective.temperature.data.fill_(-1.0)
    with torch.no_grad():
        module.after_optimizer_step()
    assert float(module.objective.temperature) == pytest.approx(0.01)
