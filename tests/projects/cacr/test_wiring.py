"""Mechanism by hand, parts and crops of the config, and what each host is built with."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from projects.cacr import data, evaluate
from projects.cacr import module as method
from projects.cacr.data import build_data, image_part, local_transforms, tail_classes
from projects.cacr.evaluate import mechanism, views_of_test_images
from projects.cacr.module import CACR, new_network
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
    stack = SimpleNamespace(batch=lambda images, rngs: torch.zeros(len(images), 5, 1))
    monkeypatch.setattr(evaluate, "view_transforms", lambda *_: stack)
    module = SimpleNamespace(
        network=lambda images: images, parameters=lambda: iter([torch.zeros(1)])
    )
    test = SimpleNamespace(labels=torch.arange(9), images=torch.zeros(9, 1))
    assert views_of_test_images(config(), module, test)[1].tolist() == [0, 8]


def test_the_further_probe_is_among_the_compared_items(monkeypatch):
    kept = []
    stands = {
        "image_part": lambda *_: SimpleNamespace(data=None, class_names=[]),
        "frozen_parts": lambda *_: SimpleNamespace(test=None),
        "probes": lambda *_: SimpleNamespace(metrics={}),
        "item_scores": lambda *_: {},
        "adam_probe": lambda *_: ({}, torch.ones(1)),
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
