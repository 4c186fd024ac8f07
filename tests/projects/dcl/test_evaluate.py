"""The mechanism table by hand, the images that are judged, and what each host is built with."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.evaluation.features.geometry import alignment, uniformity
from projects.dcl import build, data, evaluate
from projects.dcl.data import build_data, image_part
from projects.dcl.evaluate import (
    batch_npc,
    gradient_identity_error,
    mechanism,
    npc_figure,
    two_views,
)
from projects.dcl.module import DCL
from tests.projects.dcl.conftest import config, random_views


def test_trained_and_untrained_encoders_are_judged_on_bank_and_test(monkeypatch):
    """In evaluation mode, before the projector; the untrained network is that of the seed."""
    seeds, probed, shown = [], [], []
    module = nn.Linear(1, 1)
    module.network = SimpleNamespace(encoder="trained")
    fresh = SimpleNamespace(network=SimpleNamespace(encoder="fresh"))

    def frozen_parts(cfg, encoder, bank, test, workspace):
        probed.append((encoder, bank.name, test.name, module.training))
        return encoder

    stands = {
        "LabelledPixels": str,
        "image_part": lambda cfg, part: SimpleNamespace(name=part, data=f"pixels of {part}"),
        "frozen_parts": frozen_parts,
        "probes": lambda cfg, parts, linear=None: SimpleNamespace(metrics={"knn5_top1": parts}),
        "untrained": lambda build, seed, like: seeds.append(seed) or fresh,
        "mechanism": lambda cfg, module, test, workspace: {"mechanism": test},
        "save_items": lambda *_: None,
        "show_features": lambda workspace, parts, bank, test, title: shown.extend(
            [parts, bank.name, test.name]
        ),
    }
    for name, value in stands.items():
        monkeypatch.setattr(evaluate, name, value)
    cfg = config("seed=4", "eval.ks=[3,5]")
    metrics = evaluate.evaluate(cfg, module, SimpleNamespace())
    assert probed == [("trained", "bank", "test", False), ("fresh", "bank", "test", False)]
    assert metrics == {
        "knn5_top1": "trained",
        "untrained_knn5_top1": "fresh",
        "mechanism": "pixels of test",
    }
    assert seeds == [4]
    assert shown == ["trained", "bank", "test"]


def test_the_mechanism_is_of_evenly_spaced_images_in_mixed_order(monkeypatch):
    """Neighbours in the set may share a class; a batch of them would be no sample of the set."""
    monkeypatch.setattr(evaluate, "NPC_IMAGES", 8)
    as_is = SimpleNamespace(batch=lambda images, rngs: images)
    monkeypatch.setattr(evaluate, "train_transform", lambda cfg: as_is)
    module = SimpleNamespace(
        network=lambda images: images, parameters=lambda: iter([torch.zeros(1)])
    )
    test = SimpleNamespace(labels=torch.zeros(16), images=torch.arange(16.0)[:, None])
    first, second = (z.flatten().tolist() for z in two_views(config(), module, test))
    assert first == second
    assert sorted(first) == [0, 2, 4, 6, 8, 10, 12, 14] != first


def test_the_mechanism_compares_both_views(monkeypatch):
    """The identity, which takes a backward pass for each anchor, on the first images alone."""
    z_1, z_2 = random_views(6)
    asked = []
    monkeypatch.setattr(evaluate, "two_views", lambda *_: (z_1, z_2))
    monkeypatch.setattr(evaluate, "IDENTITY_IMAGES", 4)
    monkeypatch.setattr(evaluate, "gradient_identity_error", lambda *args: asked.extend(args[:2]))
    metrics = mechanism(config(), None, None, SimpleNamespace(figure=lambda *_: None))
    assert [torch.equal(x, z[:4]) for x, z in zip(asked, (z_1, z_2), strict=True)] == [True, True]
    assert metrics["alignment"] == pytest.approx(alignment(z_1, z_2))
    assert metrics["projection_uniformity"] == pytest.approx(uniformity(z_1))


def test_the_coupling_is_drawn_with_its_deviation_where_it_was_measured():
    """Variation is relative to the mean; a batch larger than the set has no point."""
    metrics = {"npc_mean_batch4": 0.5, "npc_variation_batch4": 0.2}
    metrics |= {"npc_mean_batch8": 0.8, "npc_variation_batch8": 0.125}
    (axes,) = npc_figure(metrics, [4, 8, 512]).axes
    line, _, (bars,) = axes.containers[0]
    assert line.get_xdata().tolist() == [4, 8]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [pytest.approx([0.4, 0.6]), pytest.approx([0.7, 0.9])]


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


def test_the_validation_s_bank_is_limited_as_the_training_images_are(monkeypatch):
    monkeypatch.setattr(data.images, "limited", lambda cfg: 7)
    part = SimpleNamespace(source=lambda transform: None)
    monkeypatch.setattr(data, "TwoViews", lambda images, seed: None)
    monkeypatch.setattr(
        data.images, "image_part", lambda cfg, part_, kept=None: part if part_ == "train" else kept
    )
    monkeypatch.setattr(data.images, "image_data", lambda cfg, train, labelled: labelled)
    labelled = build_data(config())
    assert (labelled("bank"), labelled("test")) == (7, None)


def test_files_and_weights_are_those_of_the_config(monkeypatch, tmp_path):
    monkeypatch.setattr(data.images, "weight_requirements", lambda pretrained: (pretrained,))
    cfg = config("data.source=cifar10", f"data.root={tmp_path}", "model.pretrained=timm:resnet18")
    weights, files = data.requirements(cfg)
    assert weights == "timm:resnet18"
    assert files.location == str(tmp_path / "cifar-10-batches-py")


@pytest.mark.parametrize(("host", "views"), [("simclr", 2), ("nnclr", 2), ("moco", 1)])
def test_the_plan_counts_the_views_that_the_trained_network_sees(host, views):
    """MoCo's second view passes the momentum encoder, which keeps no activations."""
    plan, seen = build(config(f"method.host={host}")).plan(), []
    module = plan.module()
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    plan.forward(module, 3)
    assert sum(seen) == 3 * views


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
