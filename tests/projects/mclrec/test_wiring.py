"""Noise, references, cosines and updates: what the config and the log give them."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from common.config import UserError
from projects.mclrec import data
from projects.mclrec import evaluate as evaluation
from projects.mclrec.data import build_data, load_sets
from projects.mclrec.evaluate import ranks_of, view_cosines, with_noise
from tests.projects.mclrec.conftest import batch, config, module_of


def test_each_user_has_noise_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluation, "sample_rng", lambda *args: asked.append(args[2]))
    monkeypatch.setattr(evaluation, "with_noise", lambda *_: None)
    monkeypatch.setattr(evaluation, "full_ranking", lambda *_, **__: None)
    cfg = config("eval.noise=0.5")
    sets = load_sets(cfg)
    ranks_of(cfg, sets, None)
    assert asked == [*range(len(sets.split.users))]


def test_noise_is_rounded_up_and_never_the_padding():
    asked = []

    def integers(*bounds, size):
        asked.append(bounds)
        return np.ones(size, dtype=int)

    noisy = with_noise(np.array([5, 6, 7, 8]), 0.3, 9, SimpleNamespace(integers=integers))
    assert len(noisy) == 6
    assert asked == [(5,), (1, 10)]


def test_the_reference_is_an_untrained_encoder(monkeypatch):
    judged = []
    sets = SimpleNamespace(log=SimpleNamespace(items=[]), split=SimpleNamespace(train=[]))
    sets.num_items = 0
    for name in ("item_hash", "check_items", "metrics_of", "view_cosines", "rank_metrics"):
        monkeypatch.setattr(evaluation, name, lambda *_: {})
    monkeypatch.setattr(evaluation, "COUNTING", {})
    monkeypatch.setattr(evaluation, "load_sets", lambda cfg: sets)
    monkeypatch.setattr(evaluation, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluation, "encoder_score", lambda encoder, length: encoder)
    monkeypatch.setattr(evaluation, "ranks_of", lambda cfg, sets, score: judged.append(score))
    monkeypatch.setattr(
        evaluation, "untrained", lambda build, seed, like: SimpleNamespace(encoder="untrained")
    )
    module = SimpleNamespace(items=None, encoder="trained")
    evaluation.evaluate(config("eval.reference=true"), module, None)
    assert judged == ["trained", "untrained"]


def test_the_skip_markov_chain_has_its_reach_and_memory(monkeypatch):
    asked = {}
    monkeypatch.setattr(evaluation.counting, "markov", lambda *_, **options: asked.update(options))
    evaluation.COUNTING["skip_markov"]([], 1)
    assert asked == {"reach": 3, "memory": 3}


def test_cosines_of_negatives_are_those_of_other_rows():
    cfg, module = config("data.prefixes=one_pass"), module_of().eval()
    sets = load_sets(cfg)
    with torch.no_grad():
        actual = view_cosines(cfg, module, sets)
    train = evaluation.training_set(cfg, sets, views=True)
    rows = train[[(i, 0) for i in range(len(train))]]
    h_1, h_2 = (normalize(h) for h in module.encode_views(rows))
    cosines = h_1 @ h_2.T
    count = len(cosines)
    expected = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
    assert actual["h_negative_cosine"] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_validation_masks_histories_as_the_evaluation_does(monkeypatch, masked):
    asked = []
    monkeypatch.setattr(data, "HeldOut", lambda *_, whole: asked.append(whole) or [0])
    cfg = config(f"eval.mask_history={str(masked).lower()}")
    build_data(cfg, load_sets(cfg))
    assert asked == [masked]


def test_rare_users_and_items_have_limits_of_their_own(monkeypatch):
    asked = []

    def k_core(histories, users, items):
        asked.append((users, items))
        return histories

    monkeypatch.setattr(data, "k_core", k_core)
    data._load.__wrapped__("synthetic", Path("12/20/0"), 2, 3, 0)
    assert asked == [(2, 3)]


@pytest.mark.parametrize(("steps", "parts"), [(2, "ea"), (3, "eae")])
def test_a_third_step_is_taken_only_where_the_config_says(steps, parts):
    module = module_of(f"method.steps={steps}")
    assert "".join(name[0] for name, _ in module.updates(batch())) == parts


def test_augmenters_see_views_without_a_gradient():
    assert not any(h.requires_grad for h in module_of().encode_views(batch()))


def test_training_waits_for_a_gain_as_long_as_the_config_says():
    (stop,) = module_of("eval.patience=4").configure_callbacks()
    assert stop.patience == 4


def test_the_seed_draws_the_users_of_a_share(monkeypatch):
    sets = load_sets(config())
    seen = []
    monkeypatch.setattr(data, "Prefixes", lambda train, *_, **__: seen.append(train))
    for seed in (0, 0, 1):
        data.training_set(config("data.train_share=0.5", f"seed={seed}"), sets)
    kept = [[own.tolist() for own in train] for train in seen]
    users = [own.tolist() for own in sets.split.train]
    assert kept[0] == kept[1] != kept[2]
    assert kept[0] != users[: len(kept[0])]
    assert [own for own in users if own in kept[0]] == kept[0]  # in their order
    assert len(kept[0]) == round(len(users) / 2)


@pytest.mark.parametrize("expected", [1, 10**6])
def test_a_file_with_fewer_or_more_interactions_than_promised_is_refused(expected):
    with pytest.raises(UserError, match="interactions after the filters"):
        data._load.__wrapped__("synthetic", Path("12/20/0"), 1, 1, expected)
