"""What the parts of the pre-training and the report are given: roles, rates, constants."""

import numpy as np
import pytest
import torch

from common.evaluation.retrieval.beir import RetrievalSet
from projects.contriever import data as data_module
from projects.contriever import evaluate as evaluation
from projects.contriever.data import pretraining_data, question_data, two_views
from tests.projects.contriever.conftest import config, module_of
from tests.projects.contriever.test_data import Numbered


def test_the_query_of_inverse_cloze_is_the_span():
    """A tenth of a chunk and what is around it, in this order."""
    cfg = config(
        "data.views=inverse_cloze",
        "data.cloze_keep=0",
        "data.noise.kind=none",
        "data.ratio_min=0.1",
        "data.ratio_max=0.1",
    )
    views = two_views(cfg, Numbered())
    for seed in range(5):
        query, key = views(np.arange(100), np.random.default_rng(seed))
        assert (len(query), len(key)) == (10, 90)


def test_settings_of_the_mixture_and_of_the_questions_reach_the_data(monkeypatch):
    """Sources are drawn by the configured coefficient; questions are prepared as configured."""
    for coefficient in (0.0, 0.7):
        cfg = config(f"data.sampling_coefficient={coefficient}")
        train = pretraining_data(cfg, module_of().encoder).train_set
        sizes = np.array([s.num_tokens for s in train.streams]) ** coefficient
        np.testing.assert_allclose(train.probabilities, sizes / sizes.sum())
    asked = []
    monkeypatch.setattr(data_module, "preparation", lambda on: asked.append(on) or str.strip)
    for word in ("true", "false"):
        cfg = config("finetune.steps=2", f"finetune.normalize_text={word}")
        assert question_data(cfg, module_of().encoder).train_set.prepare is str.strip
    assert asked == [True, False]


def test_fine_tuning_has_rate_warm_up_and_temperature_of_its_own():
    words = ["optim.lr=0.5", "optim.warmup_steps=9", "method.temperature=0.5"]
    words += ["finetune.lr=0.25", "finetune.warmup_steps=3", "finetune.temperature=0.125"]
    before, tuned = module_of(*words), module_of(*words, finetune=True)
    assert (before.optim.lr, before.optim.warmup_steps) == (0.5, 9)
    assert (tuned.optim.lr, tuned.optim.warmup_steps) == (0.25, 3)
    query = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    losses = [
        m.objective(query, query.roll(1, 0)).loss
        for m in (tuned, module_of("method.objective=in_batch", "method.temperature=0.125"))
    ]
    torch.testing.assert_close(*losses)


def test_constants_of_queue_and_spread_by_hand(monkeypatch, tmp_path):
    """m^steps; half of the queue's steps, counted from the newest; spread of unit vectors."""
    words = ["method.momentum=0.5", "trainer.max_steps=3", "method.queue_size=64"]
    words += ["data.batch_size=4", "trainer.accumulate_grad_batches=2"]
    cfg = config(*words, "eval.beir=[]", "finetune.steps=0")
    assert evaluation.evaluate(cfg, module_of()) == {"key_start_share": 0.125, "queue_age": 4.5}
    corpus = {"a": "x", "b": "y"}
    monkeypatch.setattr(evaluation, "first_set", lambda cfg: RetrievalSet(corpus, {}, {}))
    vectors = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    recipe = type("Recipe", (), {"documents": lambda self, encoder, texts: vectors})
    monkeypatch.setattr(evaluation, "recipe_of", lambda cfg: recipe())
    actual = evaluation.evaluate(config(*words), module_of())
    assert actual["document_mean_cosine"] == pytest.approx(0.5)
    assert actual["document_std"] == pytest.approx(float(vectors.std(0).mean()))
