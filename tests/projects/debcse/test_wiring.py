"""Diagnostics by hand, and what the config gives views, scorer and statistics."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.data.text.sets import StsSet
from projects.debcse import baselines, data, stages
from projects.debcse import evaluate as evaluation
from projects.debcse.data import SampledViews, corpus_size, length_difference, nli_sentences
from projects.debcse.evaluate import bias_diagnostics, frequency_cosine
from projects.debcse.module import DebCSE, Objective, draw_terms
from projects.debcse.record import FEATURES, SUMMARY
from projects.debcse.sampling import Draws
from tests.projects.debcse.conftest import config


def test_groups_are_by_the_difference_of_lengths_and_by_surface(monkeypatch):
    """Gold scores number the pairs; lengths of the first two differ by five words, of the third by
    three, which is not long."""
    asked = []

    def surface(first, second, kind):
        asked.append(kind)
        return np.array([0.9, 0.8, 0.1, 0.2, 0.5, 0.4])

    monkeypatch.setattr(evaluation, "surface_similarity", surface)
    monkeypatch.setattr(evaluation, "spearman", lambda cosine, gold: gold.tolist())
    monkeypatch.setattr(evaluation, "partial_spearman", lambda *args: args)
    monkeypatch.setattr(
        evaluation, "frequency_cosine", lambda x, texts, counts: (x[:, 0].tolist(), texts)
    )
    first = ["a", "a b c d e f", "a", "b", "c", "d"]
    sts = StsSet("made-up", first, ["a b c d e f", "a", "e f g h", *"fgh"], [0, 1, 2, 3, 4, 5])
    encode = lambda texts: torch.tensor([[1.0 + len(text)] for text in texts])  # noqa: E731
    metrics = bias_diagnostics(config("surface.kind=jaccard"), encode, sts, {})
    assert metrics["long_difference_spearman"] == [0, 1]
    groups = [metrics[f"surface_{name}_spearman"] for name in ("low", "middle", "high")]
    assert [sorted(group) for group in groups] == [[2, 3], [4, 5], [0, 1]]
    _, surfaces, gold = metrics["surface_partial_correlation"]
    assert (surfaces[0], gold.tolist()) == (0.9, [0, 1, 2, 3, 4, 5])
    texts = sts.first + sts.second
    assert metrics["frequency_cosine"] == ([1 + len(text) for text in texts], texts)
    assert asked == ["jaccard"]


def test_rare_and_frequent_thirds_are_by_the_mean_log_count():
    """By mean counts "a d" would be among the frequent ones; here "b" is."""
    counts = {"a": 1000, "b": 100, "c": 50, "d": 0}
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    texts = ["a d", "b", "c"]
    order = np.argsort([np.mean([math.log1p(counts[w]) for w in t.split()]) for t in texts])
    assert order.tolist() == [0, 2, 1]
    assert frequency_cosine(x, texts, Counter(counts)) == 0


def test_drawn_variants_have_their_texts_in_the_gallery(monkeypatch):
    shown = []
    record = SimpleNamespace(filled=True)
    for name in ("corpus", "evaluate_sentences", "first_sts_set", "before_and_after"):
        monkeypatch.setattr(evaluation, name, lambda *_: {})
    monkeypatch.setattr(evaluation, "pair_metrics", lambda record: {})
    monkeypatch.setattr(evaluation, "pair_figure", lambda record: None)
    monkeypatch.setattr(evaluation, "with_variants", lambda cfg, texts: "with variants")
    monkeypatch.setattr(evaluation, "examples", lambda record, texts: shown.append(texts))
    workspace = SimpleNamespace(figure=lambda *_: None, gallery=lambda *_: None)
    evaluation.evaluate(config(), SimpleNamespace(record=record), workspace)
    assert shown == ["with variants"]


def test_words_count_as_often_as_they_occur(monkeypatch):
    counted = []
    for name in ("evaluate_sentences", "first_sts_set"):
        monkeypatch.setattr(evaluation, name, lambda *_: {})
    monkeypatch.setattr(evaluation, "corpus", lambda cfg: ["a a b"])
    monkeypatch.setattr(evaluation, "before_and_after", lambda cfg, module, judge: judge(None))
    monkeypatch.setattr(
        evaluation, "bias_diagnostics", lambda *args: counted.append(args[-1]) or {}
    )
    evaluation.evaluate(config(), SimpleNamespace(record=SimpleNamespace(filled=False)), None)
    assert counted == [{"a": 2, "b": 1}]


def test_features_of_a_side_are_those_of_its_drawn_pairs(monkeypatch):
    monkeypatch.setattr(evaluation, "distances", lambda record: {})
    rows = {"drawn": 0.25, "supervised": 0.75}
    record = SimpleNamespace(
        summary=torch.full((len(SUMMARY),), math.nan),
        features=lambda kind, side: np.full((2 - side, len(FEATURES)), rows[kind] + side),
    )
    metrics = evaluation.pair_metrics(record)
    assert metrics["positive_surface"] == 0.25
    assert metrics["negative_surface"] == 1.25


def test_nli_sentences_are_of_the_training_part(monkeypatch):
    asked = []
    monkeypatch.setattr(
        data, "load_nli_pairs", lambda root, part: asked.append(part) or [("p", "h", "x")]
    )
    assert nli_sentences(None, 2, 0) == ["p", "h"]
    assert asked == ["train"]


def test_the_seed_draws_the_premises(monkeypatch):
    pairs = [(f"p{i}", f"h{i}", "x") for i in range(50)]
    monkeypatch.setattr(data, "load_nli_pairs", lambda root, part: pairs)
    draws = [nli_sentences(None, 10, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_words_are_dropped_with_the_probability_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "WordDropout", asked.append)
    monkeypatch.setattr(data, "TextViews", lambda *_, **options: options)
    cfg = config("ipw.word_drop_prob=0.3", "data.max_length=9")
    assert data.twin_views(cfg, None, ["a"])["max_length"] == 9
    assert asked == [0.3]


def views(**parts):
    """Views without texts."""
    actual = SampledViews.__new__(SampledViews)
    actual.__dict__.update(parts)
    return actual


def test_lengths_of_anchors_end_where_rows_are_cut():
    sampler = SimpleNamespace(pools=SimpleNamespace(num_anchors=2))
    actual = views(sampler=sampler, room=3, prefix=[1], suffix=[2])
    actual._offsets = np.array([0, 2, 9, 30])
    assert actual.lengths.tolist() == [4, 5]


def test_differences_of_lengths_are_between_anchor_and_positive():
    draws = SimpleNamespace(ids=np.array([[1, 2]]), anchors=np.array([0]))
    assert length_difference(draws, np.array([3, 7, 100])).tolist() == [4]


def test_sentences_of_nli_are_counted_beside_a_file():
    words = ["data.source=file", "data.file=x", "data.limit=10", "data.nli_sentences=5"]
    assert corpus_size(config(*words)) == 15


def test_means_of_each_side_are_over_its_own_scored_pairs():
    nan = math.nan
    values = torch.tensor([[0.2, nan], [0.4, 0.8]])
    both = torch.zeros(2, 2)
    batch = {"length_difference": both[0], "fallback": both, "effective": both}
    terms = draw_terms(batch | {"semantic": values, "surface": values}, 2)
    assert terms["positive_semantic"] == pytest.approx(0.3)
    assert terms["negative_semantic"] == pytest.approx(0.8)


def test_hard_negatives_of_all_rows_are_counted(monkeypatch):
    module = DebCSE.__new__(DebCSE)
    counts = []
    for hard in (False, True):
        module.__dict__["hard_negatives"] = hard
        counts.append(module.negatives_per_query(8))
    assert counts == [7, 15]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_twin_is_a_view_only_where_it_weighs(monkeypatch, weight):
    asked = []
    monkeypatch.setattr(stages, "PairSampler", lambda *_: None)
    monkeypatch.setattr(stages, "SampledViews", lambda *_, twin, **__: asked.append(twin))
    mined = SimpleNamespace(texts=[], surface=SimpleNamespace(word_counts=None), pools=None)
    encoder = SimpleNamespace(tokenizer=None)
    stages.sampled_views(config(f"method.twin_weight={weight}"), mined, encoder)
    assert asked == [weight > 0]


@pytest.mark.parametrize("positives", ["self", "augmented"])
def test_only_plain_twins_leave_a_scorer_behind(monkeypatch, positives):
    kept = []
    encoder = SimpleNamespace(tokenizer=None)
    monkeypatch.setattr(stages, "corpus", lambda cfg: [])
    monkeypatch.setattr(stages, "first_encoder", lambda cfg: encoder)
    monkeypatch.setattr(stages, "DebCSE", lambda *_: SimpleNamespace(encoder=encoder))
    monkeypatch.setattr(stages, "twin_views", lambda *_: None)
    monkeypatch.setattr(stages, "train_stage", lambda *_: "stage")
    monkeypatch.setattr(stages, "save_scorer", lambda *_: kept.append(True))
    cfg = config(f"ipw.positives={positives}", "ipw.negatives=none")
    assert list(stages.stages(cfg)) == ["stage"]
    assert bool(kept) == (positives == "self")


def test_a_named_scorer_is_pooled_as_the_config_says_and_frozen(monkeypatch):
    asked, frozen = [], []
    monkeypatch.setattr(stages, "sentence_encoder", lambda *args: asked.append(args))
    monkeypatch.setattr(stages, "freeze", lambda encoder: frozen.append(True))
    stages.given_scorer(config("scorer.model=x", "scorer.pooling=avg"))
    assert (asked, frozen) == ([("x", "avg")], [True])


def test_a_trained_scorer_is_frozen_before_pairs_are_mined(monkeypatch, tmp_path):
    seen = []
    module = SimpleNamespace(encoder=SimpleNamespace(tokenizer=None))
    monkeypatch.setattr(stages, "corpus", lambda cfg: [])
    monkeypatch.setattr(stages, "scorer_module", lambda cfg: module)
    monkeypatch.setattr(stages, "twin_views", lambda *_: None)
    monkeypatch.setattr(stages, "train_stage", lambda *_: "stage")
    monkeypatch.setattr(stages, "replace", lambda stage, **_: stage)
    monkeypatch.setattr(stages, "scorer_path", lambda cfg: tmp_path / "scorer")
    monkeypatch.setattr(stages, "save_scorer", lambda *_: None)
    monkeypatch.setattr(stages, "freeze", lambda encoder: seen.append("frozen"))
    monkeypatch.setattr(stages, "mine", lambda *_: seen.append("mined"))
    monkeypatch.setattr(stages, "DebCSE", lambda *_: SimpleNamespace(encoder=None))
    monkeypatch.setattr(stages, "first_encoder", lambda cfg: None)
    monkeypatch.setattr(stages, "fill_record", lambda *_: None)
    monkeypatch.setattr(stages, "sampled_views", lambda *_: None)
    assert list(stages.stages(config())) == ["stage", "stage"]
    assert seen == ["frozen", "mined"]


def test_a_scorer_of_another_temperature_is_another_one():
    paths = {stages.scorer_path(config(f"method.temperature={t}")) for t in (0.05, 0.1)}
    assert len(paths) == 2


def test_views_are_drawn_for_the_epoch_and_end_with_the_twin(monkeypatch):
    asked = []
    nothing = np.zeros((1, 2))
    draws = Draws(np.array([0]), np.array([[5, 6]]), *[nothing] * 4)
    sampler = SimpleNamespace(
        draw=lambda anchors, epochs: asked.append((anchors.tolist(), epochs.tolist())) or draws,
        options=SimpleNamespace(negatives="ipw"),
    )
    monkeypatch.setattr(
        data.TextViews,
        "__getitem__",
        lambda self, keys: {"input_ids": keys, "attention_mask": None},
    )
    for twin, rows in ((False, [0, 5, 6]), (True, [0, 5, 6, 0])):
        actual = views(sampler=sampler, word_counts=np.zeros(9), twin=twin)[[(0, 3)]]
        assert [row for row, _ in actual["input_ids"]] == rows
    assert asked == [([0], [3])] * 2


def test_a_sentence_of_several_rows_is_one_anchor(monkeypatch):
    monkeypatch.setattr(data, "text_rows", lambda section, seed: [("a", "b"), ("b", "c")])
    assert data.corpus(config("data.nli_sentences=0")) == ["a", "b", "c"]


def test_the_twin_meets_the_same_negatives():
    torch.manual_seed(0)
    objective = Objective(config("method.twin_weight=0.5", "method.hard_weight=2").method)
    anchor, positive, negative, twin = torch.randn(4, 3, 8)
    terms = [objective(anchor, other, negative).loss for other in (positive, twin)]
    actual = objective(anchor, positive, negative, twin).loss
    assert actual.item() == pytest.approx(float(terms[0] + 0.5 * terms[1]))


@pytest.mark.parametrize("name", ["centred", "whitened", "whitened_mean"])
def test_baselines_are_fitted_to_the_sentences_of_the_arms(monkeypatch, name):
    monkeypatch.setattr(baselines, "corpus", lambda cfg: ["a"])
    for method in ("centred", "whitened"):
        monkeypatch.setattr(baselines.family, method, lambda cfg, workspace, texts=None: texts)
    assert getattr(baselines, name)(config(), None) == ["a"]
