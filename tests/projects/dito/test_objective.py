"""Equations and the checklist of the paper, on tensors."""

import pytest
import torch
import yaml
from torch.nn import functional as F
from torchvision.ops import roi_align

from common.config import CONFIG_DIR, UserError, load
from common.data.image_text.captions import CaptionedImages
from common.losses.image_text import ClipLoss
from projects.dito import fine_tuning as ft
from projects.dito import objective as eq
from projects.dito.coco import COCO_BASE, COCO_NOVEL
from projects.dito.config import Config
from projects.dito.data import training_data
from projects.dito.network import FrozenVLM, load_pretraining
from projects.dito.scenes import is_base, scenes_of
from projects.dito.stages import image_path
from tests.projects.dito.conftest import GOLDEN, batch_of, config, module_of, network_of, sines
from tests.projects.dito.workers import unequal_focal

FOCAL = [c for c in GOLDEN if c["variant"].startswith("focal")]
FUSION = next(c["outputs"] for c in GOLDEN if c["variant"] == "score fusion")


@pytest.mark.parametrize("case", FOCAL)
def test_focal_loss_equals_the_released_one(case):
    """Golden values and gradients of the sigmoid loss of the sister code."""
    n, want = case["n"], case["outputs"]
    logits = (3 * sines(n, n)).requires_grad_()
    loss = eq.focal_contrastive(logits, case["alpha"], case["gamma"])
    loss.backward()
    assert loss.item() == pytest.approx(want["loss"], rel=1e-12)
    assert logits.grad.norm().item() == pytest.approx(want["grad_norm"], rel=1e-12)
    torch.testing.assert_close(logits.grad[0], torch.tensor(want["grad_row0"], dtype=torch.float64))


def test_items_8_and_9_fused_scores_equal_the_released_ones():
    """Checklist 8 and 9: weights .35 and .65, renormalised, background of the detector, objectness
    to the third.
    """
    i, j = torch.arange(5)[:, None].double(), torch.arange(6)[None].double()
    detector, vlm = (F.normalize((s + 6 * i + j).sin(), dim=1) for s in (1.0, 1.7))
    texts = F.normalize((0.4 + 6 * torch.arange(4).double()[:, None] + j).sin(), dim=1)
    p = eq.class_probabilities(detector, texts, 0.1)
    q = eq.class_probabilities(vlm, texts, 0.01)
    base = torch.tensor([True, True, False, False])
    actual = {
        "fused_with_split": eq.fuse_scores(p, q, base),
        "fused_no_split": eq.fuse_scores(p, q, None),
        "final_scores_with_split": eq.detection_scores(
            eq.fuse_scores(p, q, base), torch.arange(5).double().sin().sigmoid()
        ),
    }
    for name, value in actual.items():
        want = torch.tensor(FUSION[name], dtype=torch.float64)
        torch.testing.assert_close(value, want, rtol=1e-9, atol=1e-30)
    other = torch.cat(
        [q[:, :1] * 0.01, q[:, 1:]], 1
    )  # another background of the VLM changes nothing
    torch.testing.assert_close(eq.fuse_scores(p, other, base), actual["fused_with_split"])


def test_item_8_background_is_class_0_with_weight_nine_tenths():
    """Checklist 8: its row of the classes is the empty text; its regions weigh .9 in the loss."""
    logits, labels = sines(4, 3), torch.tensor([0, 2, 0, 1])
    each = F.cross_entropy(logits, labels, reduction="none")
    want = (0.9 * each[0] + each[1] + 0.9 * each[2] + each[3]) / 4
    torch.testing.assert_close(ft.region_class_loss(logits, labels), want)
    assert config().detect.background_weight == 0.9
    network = network_of(
        config(
            "model.text_tower=clip",
            "model.text={width: 16, heads: 2, layers: 1, context_length: 16}",
        )
    )
    rows = network.eval().classes(["a", "b"])
    with torch.no_grad():
        empty = F.normalize(network.text_vectors(network.tokenizer([""])), dim=1)[0]
    torch.testing.assert_close(rows[0], empty)
    assert rows.shape == (3, 32)


def test_item_5_one_vector_an_image_against_its_caption_alone():
    """Checklist 5: R unit regions are pooled by maximum or mean; positives are image-level
    pairs."""
    regions = sines(3, 4, 5)
    unit = F.normalize(regions, dim=-1)
    torch.testing.assert_close(eq.pool_regions(regions), F.normalize(unit.amax(1), dim=-1))
    torch.testing.assert_close(
        eq.pool_regions(9 * regions, "mean"), F.normalize(unit.mean(1), dim=-1)
    )
    for kind in ("max", "mean"):
        module = module_of("region", f"method.pool={kind}")
        batch, net = batch_of(module), module.network
        boxes = module.boxes_of(batch["ids"], (32, 32))
        pooled = eq.pool_regions(net.region_vectors(batch["images"], boxes).view(4, 4, -1), kind)
        want = ClipLoss()(pooled, net.text_vectors(batch["tokens"]), net.region_scale()).loss
        torch.testing.assert_close(module.losses(batch)["loss"], want)


def test_random_boxes_have_the_area_and_the_aspect_of_the_config():
    """Checklist 4: `method.area` is a share of the image, `method.aspect` width over height."""
    module = module_of("region", "method.area=[0.2,0.25]", "method.aspect=[2.5,3.0]")
    for boxes in module.boxes_of(torch.arange(4), (32, 32)):
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        area, aspect = width * height / 32**2, width / height
        assert 0.199 < float(area.min()) <= float(area.max()) < 0.251
        assert 2.49 < float(aspect.min()) <= float(aspect.max()) < 3.01


def test_item_4_the_region_stage_trains_pyramid_and_head_without_annotation(monkeypatch):
    """Checklist 4: no boxes in the batch, others in every step, RPN and frozen parts stand
    still."""
    module = module_of("region")
    batch = batch_of(module)
    assert not {"boxes", "labels"} & batch.keys()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    module.losses(batch)["loss"].backward()
    optimizer.step()
    changed = {
        k.split(".")[1] for k, v in module.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {"pyramid", "head", "region_scale"}
    for name, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert module.network.head.to_offsets.weight.grad is None
    first = torch.stack(module.boxes_of(batch["ids"], (32, 32)))
    assert torch.equal(first, torch.stack(module.boxes_of(batch["ids"], (32, 32))))
    monkeypatch.setattr(type(module), "global_step", 1)
    second = torch.stack(module.boxes_of(batch["ids"], (32, 32)))
    assert not bool((first == second).all(-1).any())
    assert len(torch.unique(first.view(-1, 4), dim=0)) == 16
    assert float(first.min()) >= 0
    assert float(first.max()) <= 32


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["method.freeze_backbone=false"], {"backbone"}),
        (["method.freeze_text=false"], {"text_tower", "text_proj"}),
    ],
)
def test_item_4_frozen_parts_are_switches(words, parts):
    """Checklist 4: backbone and texts are trained in the region stage if so chosen."""
    module = module_of("region", *words)
    module.losses(batch_of(module))["loss"].backward()
    moved = {n.split(".")[1] for n, p in module.named_parameters() if p.grad is not None}
    assert moved == {"pyramid", "head", "region_scale"} | parts


def test_item_7_the_detector_starts_from_the_region_stage():
    """Checklist 7: backbone, pyramid, head and texts are loaded, RPN and offsets are not; sizes are
    checked.
    """
    source, target = network_of(config()), network_of(config())
    state = {k: v + 1.0 for k, v in source.state_dict().items()}
    load_pretraining(target, state, "there")
    fresh = network_of(config()).state_dict()
    for name, value in target.state_dict().items():
        random = name.startswith(("rpn.", "log_temperature")) or ".to_offsets." in name
        torch.testing.assert_close(value, fresh[name] if random else state[name])
    del state["pyramid.levels.0.0.weight"]
    with pytest.raises(UserError, match=r"does not hold pyramid\.levels"):
        load_pretraining(target, state, "there")


def test_item_10_boxes_of_novel_classes_are_no_targets():
    """Checklist 10: scenes give the detector the boxes of base names alone, all of them."""
    module = module_of("detect")
    batch, names = (
        batch_of(module, count=32),
        sorted(
            f"{c} {s}"
            for c in ("red", "green", "blue", "black")
            for s in ("circle", "square", "triangle")
        ),
    )
    scenes = scenes_of(module.cfg, "train")
    assert scenes.names == names
    base = [n for n in names if is_base(n)]
    assert 0 < len(base) < len(names)
    assert module.classes.shape[0] == len(base) + 1
    for i in range(32):
        expected = [
            (names[k], b.tolist())
            for k, b in zip(scenes.labels[i].tolist(), scenes.boxes[i], strict=True)
            if is_base(names[k])
        ]
        got = [
            (base[k - 1], b.tolist())
            for k, b in zip(batch["labels"][i].tolist(), batch["boxes"][i], strict=True)
        ]
        assert got == expected
    assert (len(COCO_BASE), len(COCO_NOVEL), COCO_BASE & COCO_NOVEL) == (48, 17, frozenset())


def test_item_11_the_backbone_gets_six_tenths_of_the_gradient():
    """Checklist 11: its gradient, and no other one, is scaled."""
    grads = {}
    for factor in (0.6, 1.0):
        module = module_of("detect", f"detect.backbone_gradient={factor}")
        module.losses(batch_of(module))["loss"].backward()
        grads[factor] = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    for name, whole in grads[1.0].items():
        want = 0.6 * whole if ".backbone." in name and ".vlm." not in name else whole
        torch.testing.assert_close(grads[0.6][name], want, atol=1e-7, rtol=1e-4)
    assert any(float(g.abs().max()) > 0 for n, g in grads[1.0].items() if ".backbone." in n)


def test_item_12_the_frozen_branch_has_no_gradient_and_no_shift(monkeypatch):
    """Checklist 12: a copy that fine-tuning leaves alone; windows in all layers but the last, shift
    0.
    """
    module = module_of("detect")
    vlm = module.network.vlm
    assert isinstance(vlm, FrozenVLM)
    assert not any(p.requires_grad for p in vlm.parameters())
    seen = []
    plain = type(vlm.backbone).forward

    def spy(self, images, **kw):
        seen.append(kw)
        return plain(self, images, **kw)

    monkeypatch.setattr(type(vlm.backbone), "forward", spy)
    before = {k: v.clone() for k, v in vlm.state_dict().items()}
    batch = batch_of(module)
    module.network.vlm_vectors(batch["images"], batch["boxes"])
    assert [(kw.get("shift", 0), kw["windows"]) for kw in seen] == [(0, "all_but_last")]
    module.losses(batch)["loss"].backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert all(torch.equal(v, before[k]) for k, v in vlm.state_dict().items())
    assert not torch.equal(module.network.backbone.ln_post.weight, vlm.backbone.ln_post.weight)
    assert module.network.vlm_vectors(batch["images"], batch["boxes"]).requires_grad is False
    shared = module_of("detect", "method.detect_freeze_backbone=true").network
    assert shared.vlm is None  # one backbone serves both


def test_items_2_3_and_17_the_detector_s_map_is_the_mean_of_a_plain_and_a_shifted_pass():
    """Checklist 2, 3, 17: `model.shift` reaches pyramid and heads; 0 is the rung without it."""
    images = sines(2, 3, 32, 32).float()
    network = network_of(config("model.shift=2")).eval()
    net, plain = network.backbone, network_of(config("model.shift=0")).eval()
    with torch.no_grad():
        tokens = net.patch(images).permute(0, 2, 3, 1)
        mean = net.ln_post((net.encode(tokens, 0) + net.encode(tokens, 2)) / 2).permute(0, 3, 1, 2)
        torch.testing.assert_close(network.detector_map(images), mean)
        one = net.ln_post(net.encode(tokens, 0)).permute(0, 3, 1, 2)
        torch.testing.assert_close(plain.detector_map(images), one)
    assert float((one - mean).abs().max()) > 1e-3


def test_item_12_the_frozen_branch_averages_crops_of_14():
    """Checklist 12: RoIAlign 14 x 14 of the top map, as released."""
    network = network_of(config()).eval()
    images, boxes = sines(1, 3, 32, 32).float(), torch.tensor([[3.0, 2, 29, 21]])
    with torch.no_grad():
        grid = network.backbone(images, windows="all_but_last")
        crop = roi_align(grid, [boxes], 14, 1 / 4, sampling_ratio=2, aligned=True)
        want = network.image_proj(crop.mean((2, 3)))
    torch.testing.assert_close(network.vlm_vectors(images, [boxes]), want)


def test_the_focal_loss_knows_its_pairs_in_unequal_batches(two_ranks):
    """Unreadable samples are left out, so ranks differ in size: means over ranks are the whole
    batch's.
    """
    loss, hits, grad = unequal_focal(False)
    assert bool(hits.all())
    actual = two_ranks.run(unequal_focal, distributed=True)
    torch.testing.assert_close((actual[0][0] + actual[1][0]) / 2, loss)
    torch.testing.assert_close(torch.cat([f[1] for f in actual]), hits)
    torch.testing.assert_close((actual[0][2] + actual[1][2]) / 2, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_exact_under_autocast(dtype):
    """Focal loss and region logits of 16-bit runs: no product of unit vectors is rounded."""
    image, text, scale = (
        sines(6, 32).to(dtype),
        sines(6, 32, start=5.0).to(dtype),
        torch.tensor(100.0),
    )
    want = eq.paired_focal(image.float(), text.float(), scale, 0.5, 1.0)[0]
    classes = F.normalize(text.float(), dim=1)
    plain = F.normalize(image.float(), dim=1) @ classes.T / 0.1
    with torch.autocast("cpu", torch.bfloat16):
        loss = eq.paired_focal(image, text, scale, 0.5, 1.0)[0]
        logits = eq.class_logits(image, classes, 0.1)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(logits, plain)


def test_item_17_every_rung_is_a_switch_on_the_same_data_and_steps():
    """Checklist 17: arms of the comparison share scenes, steps, backbone and, without SWL, the
    first stage.
    """
    plan = yaml.safe_load((CONFIG_DIR / "dito/compare.yaml").read_text())
    arms = {name: plan["arms"][name] for name in plan["default_arms"]}
    cfgs = {
        a: load(
            Config, "dito", plan["base"], [f"{k}={str(v).replace(' ', '')}" for k, v in own.items()]
        )
        for a, own in arms.items()
    }
    assert {
        "image_level",
        "regions_max",
        "regions_mean",
        "swl",
        "crop",
        "whole_image",
        "centre_box",
        "random_head",
    } <= cfgs.keys()
    assert cfgs["random_head"].method.stages == ["image"]  # nothing of it is trained
    assert cfgs["random_head"].eval.regions == "head"
    same = {
        (
            c.data.scenes,
            c.data.batch_size,
            c.method.image_steps,
            c.trainer.max_steps,
            c.model.depth,
            c.model.width,
        )
        for c in cfgs.values()
    }
    assert len(same) == 1
    assert all(len(c.method.stages) == 2 for a, c in cfgs.items() if a != "random_head")
    plain = [a for a, c in cfgs.items() if not c.model.image_shift]
    assert len({image_path(cfgs[a], 0) for a in plain}) == 1
    assert image_path(cfgs["swl"], 0) != image_path(cfgs["regions_max"], 0)
    assert image_path(cfgs["crop"], 1) == image_path(cfgs["image_level"], 1)
    for word in (
        "trainer.devices=2",
        "trainer.num_nodes=2",
        "trainer.accumulate_grad_batches=2",
        "detect.rpn_convs=2",
    ):
        other = load(
            Config, "dito", plan["base"], [word]
        )  # another global batch, or other kept tensors
        assert image_path(other, 0) != image_path(cfgs["swl"], 0), word
    module = module_of("image")
    sets = [
        training_data(module.cfg, s, module.network.tokenizer).train_set
        for s in ("image", "region")
    ]
    assert all(isinstance(s, CaptionedImages) for s in sets)
    assert torch.equal(sets[0][[(3, 0)]]["images"], sets[1][[(3, 0)]]["images"])


def test_configs_that_do_not_fit_are_refused():
    for words, text in (
        (["method.stages=[detect,region]"], "detect comes last"),
        (["data.source=csv"], "data.captions"),
        (["method.stages=[image,region]", "method.image_steps=null"], "method.image_steps"),
        (["data.source=coco"], "eval_json"),
        (["data.source=coco", "data.eval_json=a.json", "method.stages=[image]"], "no captions"),
    ):
        with pytest.raises(UserError, match=text):
            config(*words)
