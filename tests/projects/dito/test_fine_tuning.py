"""Losses, optimiser and rates of the detect stage."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from common.engine.module import ContrastiveModule
from projects.dito import fine_tuning as ft
from projects.dito.detection.boxes import Regions
from projects.dito.detection.localization_rpn import propose
from tests.projects.dito.conftest import batch_of, config, module_of


def test_region_losses_take_the_configured_weights_and_no_gradient_into_the_rpn(monkeypatch):
    """Cosines over `temp_det` times the learned temperature, weights of background and RPN boxes;
    proposals are detached.
    """
    seen = {}

    def proposed(logits, boxes, *args, **words):
        seen["detached"] = not (logits.requires_grad or boxes.requires_grad)
        return propose(logits, boxes, *args, **words)

    def spy(name, plain):
        return lambda *args: seen.setdefault(name, (args, plain(*args)))[1]

    monkeypatch.setattr(ft, "propose", proposed)
    for name in ("region_class_loss", "rpn_losses"):
        monkeypatch.setattr(ft, name, spy(name, getattr(ft, name)))
    module = module_of(
        "detect", "score.temp_det=0.2", "detect.rpn_box_weight=3", "detect.background_weight=0.7"
    )
    net = module.network
    net.log_temperature.data.fill_(0.7)
    vectors = []
    net.head.register_forward_hook(lambda _, __, out: vectors.append(out[0]))
    terms = module.losses(batch_of(module))
    assert seen["detached"]
    logits, _, background, _ = seen["region_class_loss"][0]
    assert background == 0.7
    want = F.normalize(vectors[0], dim=1) @ module.classes.T / (0.2 * torch.tensor(0.7).exp())
    torch.testing.assert_close(logits, want)
    torch.testing.assert_close(terms["rpn_box"], 3 * seen["rpn_losses"][1][1])
    assert float(terms["rpn_box"].detach()) > 0
    regions = terms["region_class"] + terms["region_box"]
    grads = torch.autograd.grad(regions, list(net.rpn.parameters()), allow_unused=True)
    assert all(g is None for g in grads)


def test_boxes_are_judged_by_one_minus_iou_where_so_chosen(monkeypatch):
    """`detect.box_loss=iou` by hand: half a box of foreground is right; background has no part."""
    start = torch.tensor([[0.0, 0, 8, 8]]).repeat(2, 1)
    upper = torch.tensor([[0.0, -2.5, 0, 5 * torch.tensor(0.5).log()]])  # the upper half of it
    offsets = torch.cat([upper, torch.zeros(1, 4)])
    regions = Regions(start, torch.tensor([1, 0]), offsets, torch.zeros(2, dtype=torch.long))
    monkeypatch.setattr(ft, "sample_regions", lambda *_, **__: regions)
    module = module_of("detect", "detect.box_loss=iou", "detect.regions=16")
    module.network.head.to_offsets.weight.data.zero_()  # boxes stay where they start
    batch = batch_of(module)
    assert module.losses(batch)["region_box"].item() == pytest.approx(1 - 0.5)
    module.cfg.detect.box_loss = "huber"
    assert module.losses(batch)["region_box"].item() != pytest.approx(1 - 0.5)


def test_the_l2_term_takes_the_place_of_weight_decay():
    """What the loss penalises is not decayed a second time; other stages, and a detector without
    L2, are.
    """
    decays = {
        words: {
            g["weight_decay"]
            for g in module_of(*words, "optim.weight_decay=0.25").parameter_groups()
        }
        for words in (("detect",), ("detect", "detect.l2=0"), ("region",))
    }
    assert decays == {
        ("detect",): {0.0},
        ("detect", "detect.l2=0"): {0.25, 0.0},
        ("region",): {0.25, 0.0},
    }
    assert config("optim.weight_decay=0.25").optim.weight_decay == 0.25


def test_the_rate_warms_up_and_falls_to_a_tenth_at_every_milestone(monkeypatch):
    """The released schedule: linear from .0032, then .1 at 80, 90 and 95 per cent of the steps."""
    module = module_of(
        "detect",
        "optim.lr=0.18",
        "optim.warmup_steps=10",
        "optim.warmup_start_lr=0.0032",
        "detect.milestones=[0.8,0.9,0.95]",
    )
    optimizer = torch.optim.SGD(module.network.head.parameters(), 0.18)
    monkeypatch.setattr(
        ContrastiveModule, "configure_optimizers", lambda _: {"optimizer": optimizer}
    )
    module.trainer = SimpleNamespace(max_steps=100)
    factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    want = {
        0: 0.0032,
        3: 0.0032 + 0.1768 / 3,
        9: 0.18,
        79: 0.18,
        80: 0.018,
        89: 0.018,
        90: 0.0018,
        95: 0.00018,
    }
    for step, rate in want.items():
        assert 0.18 * factor(step) == pytest.approx(rate, rel=1e-6), step


def test_detection_losses_by_hand():
    """RPN and box losses of one image, place by place; ignored ones have no part."""
    centre, boxes = (
        torch.tensor([[0.0, 2.0, 5.0]]),
        torch.tensor([[[0.0, 0, 4, 4], [0, 0, 2, 2], [1, 1, 9, 9]]]),
    )
    target = torch.tensor([[0.25, 1.0, -1.0]])
    truth = torch.tensor([[[0.0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 0, 0]]])
    l1, iou = ft.rpn_losses(centre, boxes, target, truth)
    assert l1.item() == pytest.approx((0.25 + 1 - torch.tensor(2.0).sigmoid().item()) / 256)
    assert iou.item() == pytest.approx(0.5 / 256)
    offsets, expected = (
        torch.tensor([[2.0, 0, 0, 0], [0.5, 0, 0, 0], [9.0, 0, 0, 0]]),
        torch.zeros(3, 4),
    )
    loss = ft.region_box_loss(offsets, expected, torch.tensor([1, 2, 0]))
    assert loss.item() == pytest.approx((1.5 + 0.125) / 8)  # four coordinates of two rows
    assert ft.region_box_loss(offsets, expected, torch.zeros(3, dtype=torch.long)) == 0
    module = module_of("detect")
    for words in ([], ["detect.box_loss=iou"]):
        terms = module_of("detect", *words).losses(batch_of(module))
        total = sum(v for k, v in terms.items() if k != "loss")
        torch.testing.assert_close(terms["loss"], total)
        assert set(terms) == {
            "loss",
            "rpn_centerness",
            "rpn_box",
            "region_class",
            "region_box",
            "l2",
        }
    own = [
        p
        for n, p in module.network.named_parameters()
        if p.requires_grad and p.ndim > 1 and not n.startswith("backbone.")
    ]
    torch.testing.assert_close(
        ft.half_squares(module.network), 0.5 * sum(p.square().sum() for p in own)
    )
