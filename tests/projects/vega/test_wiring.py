"""Noise, submissions, soft labels and validation: what the config and the texts give them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.engine.workspace import Workspace
from projects.vega import evaluate as evaluation
from projects.vega import module as method
from projects.vega.encoders.perturbation import EmbeddingPerturbation
from projects.vega.evaluate import evaluate, logit_change, score_part
from tests.projects.vega.conftest import FAST, PLAIN, STILL, config, finetune_of


def test_noise_is_added_at_the_layer_of_the_config_and_leaves_the_random_state(monkeypatch):
    layers = []

    class Watched(EmbeddingPerturbation):
        def __init__(self, backbone, layer):
            layers.append(layer)
            super().__init__(backbone, layer)

    monkeypatch.setattr(evaluation, "EmbeddingPerturbation", Watched)
    module, _ = finetune_of(*PLAIN)
    texts = [("a good film",), ("a bad one",)]
    monkeypatch.setattr(evaluation, "inputs_of", lambda *_: SimpleNamespace(texts=texts))
    before = torch.get_rng_state()
    layer = "layer.0.output.LayerNorm"
    changes = [
        logit_change(config(f"sift.layer={layer}", f"eval.noise={n}"), module) for n in (0.5, 0)
    ]
    assert layers == [layer] * 2
    assert torch.equal(torch.get_rng_state(), before)
    assert changes[0] > changes[1] == 0


class TextsRead(Exception):
    """Carries the number of texts."""


def test_noise_is_measured_on_256_texts(monkeypatch):
    module, _ = finetune_of(*PLAIN)
    texts = SimpleNamespace(texts=[("a film",)] * 300)
    monkeypatch.setattr(evaluation, "inputs_of", lambda *_: texts)

    def rows(texts):
        raise TextsRead(len(texts))

    monkeypatch.setattr(module.classifier, "rows", rows)
    with pytest.raises(TextsRead, match=r"^256$"):
        logit_change(config("eval.noise=0.5"), module)


def test_changes_are_those_of_log_probabilities_and_of_scores_as_they_are():
    logits = torch.tensor([[1.0, 3.0]])
    classes, score = (SimpleNamespace(task=SimpleNamespace(is_regression=r)) for r in (False, True))
    torch.testing.assert_close(evaluation._read(classes, logits), logits.log_softmax(1))
    assert evaluation._read(score, logits) is logits


def test_a_submission_has_the_numbers_of_the_file(monkeypatch, tmp_path):
    numbers = []
    monkeypatch.setattr(evaluation, "scored_parts", lambda *_: iter(()))
    monkeypatch.setattr(evaluation, "parts_of", lambda *_: ["test"])
    monkeypatch.setattr(evaluation, "target_parts", lambda *_: [])
    monkeypatch.setattr(
        evaluation, "inputs_of", lambda *_: SimpleNamespace(texts=[("a",), ("b",)], index=[7, 3])
    )
    monkeypatch.setattr(evaluation, "logits_of", lambda *_: np.eye(2))
    monkeypatch.setattr(
        evaluation, "submission_lines", lambda task, index, logits: numbers.extend(index) or []
    )
    module, _ = finetune_of(*PLAIN)
    metrics = evaluate(config(*PLAIN, *FAST), module, Workspace(tmp_path))
    assert numbers == [7, 3]
    assert metrics["test_predicted"] == 2


def test_chance_is_the_largest_class(tmp_path):
    labels, logits = np.array([0, 0, 0, 1]), np.array([[1.0, 0.0]] * 4)
    metrics = score_part(config(), "dev", logits, labels, Workspace(tmp_path))
    assert metrics["dev_accuracy_chance"] == 0.75


def test_the_ascent_begins_and_steps_as_the_config_says(monkeypatch):
    asked = []
    ascend = EmbeddingPerturbation.ascend

    def watched(self, run, change, init, lr):
        asked.append((init, lr))
        return ascend(self, run, change, init, lr)

    monkeypatch.setattr(EmbeddingPerturbation, "ascend", watched)
    module, batch = finetune_of("sift.enabled=true", "sift.init=0.03", "sift.lr=0.2", *STILL)
    module.losses(batch)
    assert asked == [(0.03, 0.2)]


def test_accuracy_of_soft_labels_is_that_of_their_likeliest_class():
    module, _ = finetune_of(*PLAIN)
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    soft = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    assert module._terms(logits, {"labels": soft})["accuracy"] == 1


@pytest.mark.parametrize("ranks", [True, False])
def test_validation_judges_candidates_and_forgets_them(monkeypatch, ranks):
    module, _ = finetune_of(*PLAIN)
    module.ranks_candidates, judged = ranks, []
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    monkeypatch.setattr(module.classifier, "score", lambda texts: logits)
    monkeypatch.setattr(method, "premises_of", lambda texts: torch.tensor([0, 0]))
    monkeypatch.setattr(
        method,
        "glue_metrics",
        lambda name, predicted, gold: judged.append([*predicted, *gold]) or {"score": 0.0},
    )
    monkeypatch.setattr(module, "log", lambda *_: None)
    for _ in range(2):
        module.validation_step(([("a", "b"), ("a", "c")], torch.tensor([0, 1])), 0)
        module.on_validation_epoch_end()
    assert judged == [[0, 1, 0, 1] if ranks else [1, 1, 0, 1]] * 2


def test_noise_is_the_same_whatever_was_drawn_before(monkeypatch):
    module, _ = finetune_of(*PLAIN)
    texts = SimpleNamespace(texts=[("a good film",), ("a bad one",)])
    monkeypatch.setattr(evaluation, "inputs_of", lambda *_: texts)
    changes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        changes.append(logit_change(config("eval.noise=0.5"), module))
    assert changes[0] == changes[1] > 0
