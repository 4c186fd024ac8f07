"""What the parts of the pre-training and the report are given: roles, rates, constants."""

import json

import numpy as np
import pytest
import torch

from common.evaluation.retrieval.beir import RetrievalSet
from projects.contriever import data as data_module
from projects.contriever import evaluate as evaluation
from projects.contriever import exported
from projects.contriever.data import (
    pretraining_data,
    question_data,
    token_streams,
    two_views,
)
from tests.projects.contriever.conftest import config, module_of, tokens
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


@pytest.mark.parametrize("kind", ["crops", "inverse_cloze"])
def test_noise_of_both_views_is_that_of_the_config(kind):
    """Half of the tokens of either view are masked, and none without noise."""
    words = [f"data.views={kind}", "data.ratio_min=0.5", "data.ratio_max=0.5"]
    words += ["data.cloze_keep=0", "data.noise.probability=0.5"]
    for noise, share in (("mask", 0.5), ("none", 0.0)):
        views = two_views(config(*words, f"data.noise.kind={noise}"), Numbered())
        for view in views(np.arange(20, 420), np.random.default_rng(0)):
            assert (view == Numbered.mask_token_id).mean() == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("side", ["query", "document"])
def test_queries_and_documents_have_unit_length_by_a_switch_of_their_own(side):
    objective, x = module_of(f"method.norm_{side}=true").objective, torch.tensor([[3.0, 4.0]])
    lengths = {"query": objective.query(x).norm(), "document": objective.document(x).norm()}
    assert {name for name, length in lengths.items() if length == 1} == {side}


def test_bundled_streams_are_texts_without_their_titles(monkeypatch):
    """Titles are the queries of the development set."""
    encoder = module_of().encoder
    titles, texts = {"a": "men at work"}, {"a": " ".join(["house"] * 60)}
    monkeypatch.setattr(data_module, "load_titles", lambda folder: (titles, texts))
    words = ["data.source=bundled", "data.chunk_length=16"]
    streams = token_streams(config(*words), encoder.tokenizer)
    expected = len(encoder.tokenizer(texts["a"], add_special_tokens=False)["input_ids"])
    assert {stream.num_tokens for stream in streams.values()} == {expected}


def test_spread_is_that_of_documents(monkeypatch):
    read = []
    data = RetrievalSet({"a": "x", "b": "y"}, {"q": "what"}, {})
    monkeypatch.setattr(evaluation, "first_set", lambda cfg: data)
    recipe = type(
        "Recipe",
        (),
        {"documents": lambda self, encoder, texts: read.extend(texts) or torch.eye(2)},
    )
    monkeypatch.setattr(evaluation, "recipe_of", lambda cfg: recipe())
    evaluation.evaluate(config(), module_of())
    assert read == ["x", "y"]


def test_negatives_of_a_question_are_those_behind_its_gold():
    """Rows B + n i to B + n (i + 1) are the negatives of question i; validation enqueues nothing."""
    module, given = module_of("finetune.num_negatives=2", finetune=True), {}
    rows = torch.arange(9.0)[:, None].expand(9, 4)
    objective = module.objective

    class Given(torch.nn.Module):
        def forward(self, inputs):
            return inputs

    class Watched(torch.nn.Module):
        query = document = staticmethod(lambda x: x)

        def forward(self, query, keys, negatives=None):
            given.update(negatives=negatives[..., 0].tolist())
            return objective(query, keys, negatives=negatives)

    module.encoder, module.objective = Given(), Watched()
    module.losses({"query": {"inputs": rows[:3]}, "key": {"inputs": rows}})
    assert given["negatives"] == [[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]


def test_keys_of_a_validation_are_not_enqueued():
    module = module_of()
    batch = {
        name: {
            "input_ids": torch.tensor([[2, 5, 3], [2, 6, 3]]),
            "attention_mask": torch.ones(2, 3, dtype=torch.long),
        }
        for name in ("query", "key")
    }
    module.eval().losses(batch)
    assert module._new_keys == []
    module.train().losses(batch)
    assert len(module._new_keys) == 1


@pytest.mark.parametrize("lower", [True, False])
def test_an_export_prepares_texts_by_its_own_switches(tmp_path, monkeypatch, lower):
    asked = []
    (tmp_path / exported.PREPARATION).write_text(
        json.dumps({"normalize_text": not lower, "lower_case": lower})
    )
    monkeypatch.setattr(exported, "load_sentence_transformers", lambda _: module_of().encoder)
    monkeypatch.setattr(
        exported, "preparation", lambda *switches: asked.append(switches) or str.strip
    )
    exported.load_prepared(tmp_path)
    assert asked == [(not lower, lower)]


def test_a_gradient_cache_changes_nothing_but_memory():
    """The loss, its gradients and the largest pass of the encoder, with chunks and without."""
    batch = {"query": tokens(4, 0), "key": tokens(8, 3)}
    results = []
    for words in ((), ("finetune.chunk_size=3",)):
        module = module_of("model.dropout=0.0", "finetune.num_negatives=1", *words, finetune=True)
        sizes: list[int] = []

        def note(_, inputs, kwargs, sizes=sizes):
            sizes.append(len(kwargs["input_ids"]))

        module.encoder.register_forward_pre_hook(note, with_kwargs=True)
        loss = module.losses(batch)["loss"]
        loss.backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        results.append((loss.detach(), torch.cat([g.flatten() for g in grads]), max(sizes)))
    (plain, expected, whole), (cached, actual, part) = results
    assert (whole, part) == (8, 3)
    torch.testing.assert_close(cached, plain)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-4)
