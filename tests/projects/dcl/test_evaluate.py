"""The mechanism table by hand, the images that are judged, and what each host is built with."""

from types import SimpleNamespace

import pytest
import torch

from projects.dcl import data, evaluate
from projects.dcl.data import build_data, image_part
from projects.dcl.evaluate import batch_npc, gradient_identity_error, mechanism, two_views
from projects.dcl.module import DCL
from tests.projects.dcl.conftest import config, random_views


def test_an_incomplete_batch_has_no_part_in_the_coupling():
    z_1, z_2 = random_views(5)
    whole = batch_npc(config(), z_1[:4], z_2[:4], 2)
    torch.testing.assert_close(batch_npc(config(), z_1, z_2, 2), whole)


def test_variation_is_relative_and_the_identity_has_the_temperature_of_the_config(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "two_views", lambda *_: random_views(4))
    monkeypatch.setattr(evaluate, "batch_npc", lambda *_: torch.tensor([1.0, 3.0]))
    monkeypatch.setattr(evaluate, "gradient_identity_error", lambda *args: asked.append(args[2]))
    workspace = SimpleNamespace(figure=lambda *_: None)
    cfg = config("method.temperature=0.2", "eval.npc_batch_sizes=[2]")
    metrics = mechanism(cfg, None, None, workspace)
    assert metrics["npc_variation_batch2"] == pytest.approx(2**0.5 / 2)
    assert asked == [0.2]


def test_the_identity_error_is_the_largest_relative_one_over_all_negatives(monkeypatch):
    """Two anchors whose errors by hand are 1 and 0; both views of the other are negatives."""
    pools, lengths = [], iter([2.0, 0.0, 3.0, 3.0])

    def gradient(anchor, positive, negatives, temperature, decoupled):
        pools.append(len(negatives))
        length = next(lengths)
        return torch.tensor([length, 0.0]), torch.tensor(0.0)

    monkeypatch.setattr(evaluate, "_anchor_gradient", gradient)
    monkeypatch.setattr(evaluate, "npc_multiplier", lambda positive, gap: torch.tensor(1.0))
    assert gradient_identity_error(*random_views(2), temperature=0.1) == 1
    assert pools == [2] * 4


def test_both_views_of_a_test_image_have_draws_of_their_own(monkeypatch):
    def draws(images, rngs):
        return torch.tensor([[float(rng.random())] for rng in rngs])

    monkeypatch.setattr(evaluate, "train_transform", lambda cfg: SimpleNamespace(batch=draws))
    module = SimpleNamespace(
        network=lambda images: images, parameters=lambda: iter([torch.zeros(1)])
    )
    test = SimpleNamespace(labels=torch.zeros(3), images=torch.zeros(3, 1))
    z_1, z_2 = two_views(config(), module, test)
    assert len({*z_1.flatten().tolist(), *z_2.flatten().tolist()}) == 6


@pytest.mark.parametrize(("part", "limit"), [("train", 7), ("bank", 7), ("test", None)])
def test_a_limit_cuts_training_images_and_bank_alone(monkeypatch, part, limit):
    monkeypatch.setattr(data.images, "limited", lambda cfg: 7)
    monkeypatch.setattr(data.images, "image_part", lambda cfg, part, kept: kept)
    assert image_part(config(), part) == limit


def test_views_are_drawn_by_the_seed(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "TwoViews", lambda images, seed: asked.append(seed))
    monkeypatch.setattr(data.images, "image_data", lambda *_: None)
    build_data(config("seed=5"))
    assert asked == [5]


def test_neighbours_vote_as_the_config_says():
    module = DCL(config("eval.items_k=3", "eval.ks=[3]", "eval.knn_temperature=0.3"))
    assert (module.knn_k, module.knn_temperature) == (3, 0.3)


@pytest.mark.parametrize(("loss", "of_batch"), [("dcl", False), ("dclw", True)])
def test_only_the_weights_of_moco_look_at_the_batch(loss, of_batch):
    module = DCL(config("method.host=moco", f"method.loss={loss}", "method.momentum=0.7"))
    assert module.in_batch_negatives == of_batch
    assert module.momentum_encoder.momentum == 0.7
    assert not module.objective.loss.in_batch


def test_the_predictor_is_normalised_as_the_heads_are():
    kinds = {
        norm: any(isinstance(m, torch.nn.BatchNorm1d) for m in DCL(cfg).predictor.modules())
        for norm in ("batch", "none")
        for cfg in [config("method.host=nnclr", f"model.head_norm={norm}")]
    }
    assert kinds == {"batch": True, "none": False}
    assert DCL(config("method.host=nnclr")).objective.loss.in_batch
