"""What the mechanism's table, the head and the views are given by the config."""

import pytest
import torch

from common.data.text.sets import StsSet
from projects.whitenedcse import data
from projects.whitenedcse import evaluate as evaluation
from projects.whitenedcse.config import SgwConfig
from projects.whitenedcse.data import train_set
from projects.whitenedcse.evaluate import batch_whitening
from projects.whitenedcse.module import WhitenedCSE
from projects.whitenedcse.objective import WhitenedHead, build_whitening
from tests.projects.whitenedcse.conftest import config, module_of


def test_views_are_repeated_as_the_config_says_within_the_encoder(monkeypatch):
    asked = {}
    monkeypatch.setattr(
        data, "repeated_views", lambda rows, tokenizer, repeat, **rest: asked.update(rest, r=repeat)
    )
    cfg = config("repetition.level=word", "repetition.rate=0.2", "num_pos=4")
    encoder = module_of().encoder
    train_set(cfg, encoder)
    assert (asked["limit"], asked["views"]) == (encoder.max_length, 4)
    assert asked["r"] == data.repetition(cfg.repetition)
    assert asked["r"] != data.repetition(config().repetition)


def test_whitening_afterwards_is_fitted_on_training_sentences_before_and_after(monkeypatch):
    fitted = []
    sts = StsSet("made-up", ["a", "b", "c"], ["d", "e", "f"], [1.0, 2.0, 3.0])
    rows = [(f"t{i}",) for i in range(9)]
    monkeypatch.setattr(evaluation, "first_sts_set", lambda cfg: sts)
    monkeypatch.setattr(evaluation, "text_rows", lambda *_: rows)
    whitening = evaluation.fit_whitening
    monkeypatch.setattr(
        evaluation,
        "fit_whitening",
        lambda x, ridge: fitted.append(len(x)) or whitening(x, ridge=ridge),
    )
    monkeypatch.setattr(evaluation, "batch_whitening", lambda *_: {})
    module = module_of()
    evaluation.mechanism(config("eval.whitening_sentences=7", "eval.untrained=true"), module)
    assert fitted == [7, 7]


def test_batches_are_whole_white_and_shuffled_by_the_seed():
    """Groups of three of 24 channels want more than three rows, not more than all channels."""
    words = ["data.batch_size=8", "sgw.groups=8"]
    x = torch.randn(20, 24, generator=torch.Generator().manual_seed(0)) + 2
    before = torch.get_rng_state()
    first, again = (batch_whitening(config(*words, "seed=1"), x) for _ in range(2))
    other = batch_whitening(config(*words, "seed=2"), x)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again
    assert first["sgw_view_cosine"] != other["sgw_view_cosine"]
    assert abs(first["sgw_mean_cosine"]) < 0.2  # that of x is above one half
    assert batch_whitening(config("data.batch_size=3", "sgw.groups=8"), x) == {}


def test_the_whitening_has_all_options_of_the_config():
    sgw = SgwConfig(groups=4, method="pca", ridge=0.5, detach_whitening=False, shuffle=False)
    layer = build_whitening(8, sgw)
    assert (layer.method, layer.ridge, layer.detach, layer.shuffle) == ("pca", 0.5, False, False)


def test_the_dense_layer_begins_with_the_encoder_s_deviation():
    torch.manual_seed(0)
    assert float(WhitenedHead(64, SgwConfig(groups=8), 0.5).dense.weight.std()) == pytest.approx(
        0.5, rel=0.1
    )
    cfg = config()
    encoder = module_of().encoder
    encoder.tower.model.config.initializer_range = 0.25
    assert float(WhitenedCSE(cfg, encoder).head.dense.weight.std()) == pytest.approx(0.25, rel=0.1)


def test_terms_of_a_step_are_per_positive_and_of_other_sentences(monkeypatch):
    module = module_of("sgw.position=none", "num_pos=3")
    z = torch.eye(4)[None].expand(3, 4, 4).clone()
    monkeypatch.setattr(module, "views", lambda batch, count: list(z))
    monkeypatch.setattr(module, "head", torch.nn.Identity())
    monkeypatch.setattr(
        module,
        "objective",
        type("Loss", (torch.nn.Module,), {"forward": lambda self, z: (torch.tensor(6.0),) * 2})(),
    )
    terms = module.losses({})
    assert terms["loss_per_positive"] == 3.0
    assert terms["positive_cosine"] == 1.0
    assert terms["negative_cosine"] == 0.0
