"""Mechanism by hand, parts and crops of the config, and what each host is built with."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.evaluation.features.geometry import alignment, uniformity
from projects.cacr import data, evaluate
from projects.cacr import module as method
from projects.cacr.data import (
    build_data,
    image_part,
    local_transforms,
    num_samples,
    tail_classes,
)
from projects.cacr.diagnostics import weight_diagnostics
from projects.cacr.evaluate import mechanism, views_of_test_images
from projects.cacr.imbalance import kept_images
from projects.cacr.module import CACR, cosine_momentum, new_network
from tests.projects.cacr.conftest import config

MOMENTUM = ("method.host=momentum", "method.cost=rbf")


def test_mechanism_by_hand(monkeypatch):
    """Unit views of two images; lengths of the raw ones are 2 and have no part in distances."""
    asked = []
    z = (
        2
        * torch.tensor(
            [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]],
        ).double()
    )
    labels = torch.tensor([0, 1])
    monkeypatch.setattr(evaluate, "views_of_test_images", lambda *_: (z, labels))
    monkeypatch.setattr(evaluate, "weight_diagnostics", lambda *args: asked.append(args[3:]) or {})
    monkeypatch.setattr(
        evaluate,
        "repulsion_weights",
        lambda query, others, tau: asked.append((tau,)) or torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
    )
    metrics = mechanism(config(), SimpleNamespace(tau_pos=3.0, tau_neg=5.0), None)
    assert asked == [(3, 5), (5,)]
    assert metrics["nearest_negative_distance"] == pytest.approx(2)
    assert metrics["positive_distance"] == pytest.approx(0.5)
    assert metrics["farthest_positive_distance"] == pytest.approx(1)


def test_labels_are_those_of_the_evenly_spaced_images(monkeypatch):
    monkeypatch.setattr(evaluate, "DIAGNOSED_IMAGES", 2)
    numbers = torch.arange(5.0)[None, :, None]
    stack = SimpleNamespace(batch=lambda images, rngs: numbers.expand(len(images), -1, -1))
    monkeypatch.setattr(evaluate, "view_transforms", lambda *_: stack)
    module = SimpleNamespace(
        network=lambda images: images, parameters=lambda: iter([torch.zeros(1)])
    )
    test = SimpleNamespace(labels=torch.arange(9), images=torch.zeros(9, 1))
    z, labels = views_of_test_images(config(), module, test)
    assert z[..., 0].tolist() == [[view] * 2 for view in range(5)]
    assert labels.tolist() == [0, 8]


def test_the_further_probe_is_among_the_compared_items(monkeypatch):
    kept, learnt_from = [], []
    stands = {
        "image_part": lambda cfg, part: SimpleNamespace(data=None, class_names=[], part=part),
        "frozen_parts": lambda *_: SimpleNamespace(test=None),
        "probes": lambda *_: SimpleNamespace(metrics={}),
        "item_scores": lambda *_: {},
        "adam_probe": lambda cfg, encoder, bank, test: (
            learnt_from.append(bank.part) or ({}, torch.ones(1))
        ),
        "tail_classes": lambda *_: None,
        "show_features": lambda *_: None,
    }
    for name, value in stands.items():
        monkeypatch.setattr(evaluate, name, value)
    module = nn.Linear(1, 1)
    module.network = SimpleNamespace(encoder=None)
    workspace = SimpleNamespace(items=lambda name, values: kept.append(name))
    evaluate.evaluate(config("eval.adam_probe_epochs=1"), module, workspace)
    assert kept == ["adam_probe_top1"]
    assert learnt_from == ["bank"]


def test_small_crops_are_resized_as_the_config_says(monkeypatch):
    asked = []
    monkeypatch.setattr(
        data.images, "simclr_transform", lambda cfg, **options: asked.append(options)
    )
    monkeypatch.setattr(data, "ViewStack", lambda transforms: transforms)
    words = [*MOMENTUM, "data.local_views=2", "data.local_interpolation=bicubic"]
    local_transforms(config(*words).data)
    assert asked[0]["interpolation"].value == "bicubic"


@pytest.mark.parametrize(("words", "seed"), [((), 3), (("data.subset_seed=8",), 8)])
def test_a_subset_is_drawn_by_its_own_seed_if_it_has_one(monkeypatch, words, seed):
    asked = []
    monkeypatch.setattr(
        data.images, "limited", lambda cfg, seed: asked.append(seed) or (lambda pixels: pixels)
    )
    data._subset(None, config("seed=3", *words))
    assert asked == [seed]


@pytest.mark.parametrize(("part", "name"), [("bank", "train"), ("test", "val")])
def test_pictures_without_labels_are_judged_on_both_parts_of_imagenet(monkeypatch, part, name):
    monkeypatch.setattr(data, "ImagePart", lambda files: files)
    monkeypatch.setattr(data, "image_files", lambda source, root, part: part)
    assert image_part(config("data.source=folder", "data.folder=x"), part) == name


def test_the_gap_is_head_minus_tail():
    hits, tail = {"knn_top1": torch.tensor([True, False, False])}, torch.tensor([True, False])
    scores = evaluate.by_frequency(hits, torch.tensor([1, 1, 0]), tail)
    assert scores == {"knn_tail_top1": 0.0, "knn_head_top1": 0.5, "knn_gap": 0.5}


def test_rare_classes_are_the_first_half():
    cfg = config("data.imbalance=exponential")
    assert tail_classes(cfg, list("abcde")).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("count", [0, 2])
def test_small_crops_are_made_only_where_the_config_asks(monkeypatch, count):
    asked = []
    part = SimpleNamespace(source=lambda transform: transform)
    monkeypatch.setattr(data, "image_part", lambda *_: part)
    monkeypatch.setattr(data, "MultiViews", lambda views, local, seed: asked.append(local))
    monkeypatch.setattr(data.images, "image_data", lambda *_: None)
    build_data(config(*MOMENTUM, f"data.local_views={count}"))
    assert (asked[0] is not None) == (count > 0)


@pytest.mark.parametrize(("norm", "last"), [("batch", True), ("none", False)])
def test_the_predictor_is_normalised_as_the_config_says(monkeypatch, norm, last):
    asked = []
    head = method.MLPHead

    def watched(*args, **options):
        asked.append(options)
        return head(*args, **options)

    monkeypatch.setattr(method, "MLPHead", watched)
    words = [f"model.head_norm={norm}", f"model.predictor_last_norm={str(last).lower()}"]
    CACR(config(*MOMENTUM, *words))
    assert (asked[-1]["norm"], asked[-1]["last_norm"]) == (norm, last)


def test_neighbours_vote_as_the_config_says():
    module = CACR(config("eval.knn_temperature=0.3"))
    assert (module.knn_k, module.knn_temperature) == (config().eval.items_k, 0.3)


@pytest.mark.parametrize("zero", [True, False])
def test_residual_blocks_begin_at_zero_only_where_the_config_says(monkeypatch, zero):
    block = method.Bottleneck(8, 2)
    monkeypatch.setattr(method, "projected_encoder", lambda cfg: nn.Sequential(block))
    new_network(config(f"model.zero_init_residual={str(zero).lower()}"))
    assert (not block.bn3.weight.any()) == zero


def test_mechanism_compares_the_first_view_with_the_others(monkeypatch):
    torch.manual_seed(0)
    z, labels = torch.randn(3, 6, 4).double(), torch.tensor([0, 0, 1, 1, 2, 2])
    monkeypatch.setattr(evaluate, "views_of_test_images", lambda *_: (z, labels))
    even = (torch.ones(6, 6) - torch.eye(6)) / 5
    monkeypatch.setattr(evaluate, "repulsion_weights", lambda *_: even)
    metrics = mechanism(config(), SimpleNamespace(tau_pos=1.0, tau_neg=2.0), None)
    assert metrics.items() >= weight_diagnostics(z[0], z[1:], z[1], 1.0, 2.0).items()
    assert metrics["alignment"] == alignment(z[0], z[1])
    assert metrics["projection_uniformity"] == uniformity(z[0])
    assert metrics["same_class_weight"] == pytest.approx(0.2)  # one of five others


def test_the_untrained_encoder_is_that_of_the_seed(monkeypatch, tmp_path):
    seeds = []
    fresh = SimpleNamespace(network=SimpleNamespace(encoder="fresh"))
    stands = {
        "LabelledPixels": SimpleNamespace,
        "image_part": lambda cfg, part: SimpleNamespace(data=SimpleNamespace(), class_names=[]),
        "frozen_parts": lambda cfg, encoder, *_: SimpleNamespace(
            encoder=encoder, test=SimpleNamespace(labels=None)
        ),
        "probes": lambda cfg, parts: SimpleNamespace(metrics={}, encoder=parts.encoder),
        "item_scores": lambda cfg, scores: {
            "knn_top1": torch.tensor([float(scores.encoder == "fresh")])
        },
        "untrained": lambda build, seed, like: seeds.append(seed) or fresh,
        "mechanism": lambda *_: {},
        "tail_classes": lambda *_: None,
        "per_class": lambda *_: {},
        "per_class_figure": lambda report: None,
        "show_features": lambda *_: None,
    }
    for name, value in stands.items():
        monkeypatch.setattr(evaluate, name, value)
    module = nn.Linear(1, 1)
    module.network = SimpleNamespace(encoder="trained")
    workspace = SimpleNamespace(
        items=lambda *_: None, figure=lambda *_: None, folder=lambda name: tmp_path
    )
    metrics = evaluate.evaluate(config("seed=4", "eval.untrained=true"), module, workspace)
    assert metrics == {"untrained_knn_top1": 1}
    assert seeds == [4]


def test_bank_and_test_are_the_same_whatever_is_trained_on(monkeypatch):
    monkeypatch.setattr(data.images, "image_part", lambda cfg, part, subset: subset is not None)
    cfg = config("data.imbalance=linear")
    assert [image_part(cfg, part) for part in ("train", "bank", "test")] == [True, False, False]


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_an_imbalanced_set_is_counted_by_its_own_rule(monkeypatch, kind):
    cfg = config(f"data.imbalance={kind}")
    monkeypatch.setitem(data.NUM_CLASSES, cfg.data.source, 4)
    monkeypatch.setitem(data.NUM_IMAGES, cfg.data.source, 400)
    assert num_samples(cfg) == sum(kept_images(100, label, 4, kind) for label in range(4))


def test_the_momentum_rises_to_one_where_the_config_says():
    module = CACR(config(*MOMENTUM, "method.momentum_schedule=cosine", "method.momentum=0.9"))
    module.momentum_encoder.momentum = 0.0
    module.after_optimizer_step()
    assert module.momentum_encoder.momentum == cosine_momentum(0.0, 0.9)
    module._trainer = SimpleNamespace(global_step=5, max_steps=10)
    module.after_optimizer_step()
    assert module.momentum_encoder.momentum == cosine_momentum(0.5, 0.9) > 0.9
