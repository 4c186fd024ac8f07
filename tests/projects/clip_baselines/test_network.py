"""Views and heads, dropout, momentum, scales, batch norm over ranks (checklist items 1, 2, 6, 7,
11, 15).
"""

import math
from functools import cache

import pytest
import torch
from torch import nn

from common.config import UserError
from common.encoders.sync_norm import SyncBatchNorm
from projects.clip_baselines import lips
from projects.clip_baselines import module as rocket
from projects.clip_baselines import open_clip_parts as parts
from projects.clip_baselines.lips import barlip, siamlip, swalip, swalip_v1
from projects.clip_baselines.network import encode, prototype_scores
from projects.clip_baselines.objective import cl2l
from tests.projects.clip_baselines.conftest import (
    BASIC,
    METHODS,
    batch,
    config,
    module_of,
    words_of,
)
from tests.projects.clip_baselines.workers import two_steps


def encoded(module, rows):
    return encode(module.encoder, module.heads, rows, module.method)


def test_item_1_clean_pair_takes_the_linear_heads_views_the_mlps():
    """Checklist 1: one clean and K augmented views a side; z of the clean pair, h of the views."""
    module, rows = module_of().eval(), batch()
    out = encoded(module, rows)
    assert {k: len(v) for k, v in out.h.items()} == {"image": 2, "text": 2}
    z = module.encoder.encode_image(rows["images"])
    assert torch.allclose(out.z["image"], z, atol=1e-5)
    texts = module.encoder.encode_text(rows["tokens"][:, 0])
    assert torch.allclose(out.z["text"], texts, atol=1e-5)
    for k in range(2):
        features = module.encoder.image_features(rows["views"][k])
        assert torch.allclose(out.h["image"][k], module.heads.local["image"](features), atol=1e-5)
        features = parts.text_features(module.encoder, rows["tokens"][:, 1 + k])
        assert torch.allclose(out.h["text"][k], module.heads.local["text"](features), atol=1e-5)
        assert not torch.allclose(out.h["text"][k], out.h["text"][1 - k], atol=1e-3)


def test_item_1_without_separate_heads_views_take_the_linear_ones():
    """Checklist 1: the switch; the views then have the clean pair's scale."""
    module = module_of("method.separate_heads=false").eval()
    rows = batch()
    out = encoded(module, rows)
    assert torch.allclose(
        out.h["image"][1], module.encoder.encode_image(rows["views"][1]), atol=1e-5
    )
    assert module.local_scale is None
    terms = module.losses(rows)
    assert terms["local_scale"] == terms["logit_scale"]


@pytest.mark.parametrize("noise", ["text_dropout", "text_drop_path"])
def test_item_2_noise_in_the_text_tower_is_on_the_views_only(noise):
    """Checklist 2: in training mode the clean text is deterministic, the augmented ones are not."""
    module, rows = module_of("method.text_dropout=0", f"method.{noise}=0.5"), batch()
    first, second = encoded(module, rows), encoded(module, rows)
    assert torch.equal(first.z["text"], second.z["text"])
    assert not torch.equal(first.h["text"][0], second.h["text"][0])
    off = module_of("method.text_dropout=0")
    assert torch.equal(encoded(off, rows).z["text"], first.z["text"])
    module.eval()
    assert torch.equal(encoded(module, rows).h["text"][0], encoded(module, rows).h["text"][0])


@pytest.mark.parametrize("basic", [False, True], ids=["strong", "basic"])
@pytest.mark.parametrize("method", METHODS)
def test_item_16_every_cell_of_the_grid_trains_all_its_parameters(method, basic):
    """Checklist 16: ten cells; the loss is finite and a gradient reaches every trained
    parameter."""
    module = module_of(*words_of(method, basic))
    terms = module.losses(batch(views=module.num_views))
    terms["loss"].backward()
    assert all(torch.isfinite(v).all() for v in terms.values())
    assert ("lip" in terms) == (method != "clip")
    without = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize(("method", "basic"), [*((m, False) for m in METHODS), ("swalip", True)])
def test_items_3_to_9_a_method_s_loss_is_that_of_its_functions_with_the_published_constants(
    method, basic
):
    """Checklist 3, 4 and 6 to 9: scales, smoothing, reduction and the factor of what a *LIP
    adds."""
    words = [*words_of(method, basic), "method.text_dropout=0", "method.local_scale_init=5"]
    module = module_of(*words).eval()
    rows = batch(views=module.num_views)
    for parameter in module.heads.child.parameters():  # away from the momentum copy
        parameter.data += 0.02 * torch.sin(torch.arange(parameter.numel())).view_as(parameter)
    with torch.no_grad():
        out, scale = encoded(module, rows), module.logit_scale()
        local = scale if module.local_scale is None else module.local_scale()
        smoothing = 0.0 if method == "swalip" else 0.1
        sides = [own[side] for own in (out.z, out.h) for side in ("image", "text")]
        expected = cl2l(*sides, scale, local, label_smoothing=smoothing, reduction="sum")["loss"]
        if method == "barlip":
            expected += barlip(out.v["image"], out.v["text"], off_diagonal=5e-3, weight=0.025)
        elif method == "swalip" and basic:
            expected += 0.2 * swalip_v1(
                *(prototype_scores(module.heads, out.v[s][0]) for s in out.v)
            )
        elif method == "swalip":
            expected += 0.2 * swalip(out.h["image"], out.h["text"], local)
        elif method != "clip":
            target = out
            if module.average is not None:
                copy = module.average.network
                target = encode(copy["encoder"], copy["heads"], rows, module.method)
            expected += siamlip(out.p["image"], out.p["text"], target.v["image"], target.v["text"])
        torch.testing.assert_close(module.losses(rows)["loss"], expected)
    assert float(scale) > 14
    assert basic or float(local) == pytest.approx(5)


def test_settings_reach_the_losses(monkeypatch):
    """None of them is the recipe's."""
    seen = {}

    def watch(owner, name):
        plain = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *a, **options: seen.update({name: options}) or plain(*a, **options)
        )

    watch(rocket, "cl2l")
    for name in ("barlip", "swalip", "swalip_v1"):
        watch(lips, name)
    words = ["method.gather_grad=true", "method.reduction=avg", "method.label_smoothing=0"]
    words += ["method.barlow_lambda=0.01", "method.barlow_weight=0.5"]
    words += ["method.sinkhorn_epsilon=0.07", "method.sinkhorn_iterations=5"]
    for own in (["barlip"], ["swalip"], ["swalip", *BASIC]):
        module = module_of(f"method.name={own[0]}", *words, *own[1:])
        module.losses(batch(views=module.num_views))
    assert seen["cl2l"] == {"label_smoothing": 0, "reduction": "avg", "gather_grad": True}
    assert seen["barlip"] == {"off_diagonal": 0.01, "weight": 0.5}
    assert seen["swalip_v1"] == {"epsilon": 0.07, "iterations": 5}
    assert seen["swalip"] == seen["swalip_v1"] | {"gather_grad": True}
    words = ["method.momentum=0.75", "model.max_logit_scale=20", "method.head_dim=48"]
    module = module_of("method.name=byolip", *words, "method.sync_batchnorm=false")
    assert module.average.momentum == 0.75
    module.local_scale.log_scale.data.fill_(9.0)
    module.after_optimizer_step()
    assert float(module.local_scale()) == pytest.approx(20)
    assert module.heads.local["image"].layers[0].weight.shape[0] == 48
    assert not any(isinstance(m, SyncBatchNorm) for m in module.modules())


def test_views_take_the_children_of_their_own():
    """With `separate_children` neither projector nor predictor sees both kinds of views."""
    module = module_of("method.name=siamlip", "method.separate_children=true").eval()
    child, x = module.heads.child["text"], torch.randn(4, 32)
    for parts_of in (child.projector, child.predictor):
        kept = [p.clone() for p in parts_of[1].parameters()]
        before = [child(x, augmented)[1] for augmented in (False, True)]
        for parameter in parts_of[1].parameters():
            parameter.data.mul_(-2)
        after = [child(x, augmented)[1] for augmented in (False, True)]
        assert torch.equal(before[0], after[0])
        assert not torch.allclose(before[1], after[1])
        for parameter, value in zip(parts_of[1].parameters(), kept, strict=True):
            parameter.data.copy_(value)


def test_item_6_targets_get_no_gradient_but_through_the_predictor():
    """Checklist 6: with the predictor's output cut off, the projector gets none."""
    module = module_of("method.name=siamlip")
    out = encoded(module, batch())
    term = module._lip(out, batch(), torch.tensor(1.0))
    codes = [c for side in out.v.values() for c in side]
    predictions = [p for side in out.p.values() for p in side]
    assert all(g is not None for g in torch.autograd.grad(term, predictions, retain_graph=True))
    cut = {side: [p.detach() for p in values] for side, values in out.p.items()}
    out.p = cut
    assert not module._lip(out, batch(), torch.tensor(1.0)).requires_grad
    assert all(c.requires_grad for c in codes)  # they do have a graph: it is the loss that stops


def test_item_7_momentum_copy_follows_after_the_step():
    """Checklist 7: no gradient, no move before a step, then exactly (1 - tau)(theta - theta')."""
    module = module_of("method.name=byolip")
    start = {k: p.clone() for k, p in module.average.network.named_parameters()}
    online = dict(module._online().named_parameters())
    assert all(torch.equal(start[k], online[k]) for k in start)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    module.losses(batch())["loss"].backward()
    copies = dict(module.average.network.named_parameters())
    assert all(p.grad is None and not p.requires_grad for p in copies.values())
    assert all(torch.equal(start[k], p) for k, p in copies.items())
    optimizer.step()
    module.after_optimizer_step()
    for name, p in copies.items():
        moved = start[name] + 0.01 * (online[name].detach() - start[name])
        torch.testing.assert_close(p, moved, rtol=1e-6, atol=1e-7)
    moved = [n for n, p in copies.items() if not torch.equal(p, start[n])]
    assert len(moved) > 30


def test_item_7_copy_has_batch_statistics_of_its_own():
    """Checklist 7: in training mode its buffers follow its own batches and are not averaged."""
    module = module_of("method.name=byolip")
    module.losses(batch())
    own, copy = (
        dict(m.named_buffers()) for m in (module._online(), module.average.network)
    )  # equal weights and equal batches: equal statistics, without `update`
    name = "encoder.model.visual.trunk.stem.bn.running_mean"
    assert torch.allclose(own[name], copy[name], atol=1e-6)
    assert copy[name].any()
    module.average.update(module._online())
    before = copy[name].clone()
    own[name].add_(1.0)
    module.average.update(module._online())
    assert torch.equal(copy[name], before)


def test_item_11_both_scales_start_and_stay_in_their_bounds():
    """Checklist 11: 1/0.07 and 1/0.1; after every step in [0, ln 100]."""
    module = module_of()
    assert math.isclose(float(module.logit_scale().detach()), 1 / 0.07, rel_tol=1e-6)
    assert math.isclose(float(module.local_scale().detach()), 10, rel_tol=1e-6)
    for value, expected in ((7.0, math.log(100)), (-3.0, 0.0)):
        for scale in (module.logit_scale, module.local_scale):
            scale.log_scale.data.fill_(value)
        module.after_optimizer_step()
        for scale in (module.logit_scale, module.local_scale):
            assert math.isclose(float(scale.log_scale), expected, rel_tol=1e-6, abs_tol=1e-9)
    module_of(*BASIC).after_optimizer_step()  # without a second scale


def test_item_15_every_batch_norm_is_synchronised():
    """Checklist 15: towers, projectors and predictors; the switch leaves them local."""
    for method in ("byolip", "barlip"):
        norms = [
            m
            for m in module_of(f"method.name={method}").modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        assert len(norms) > 20
        assert all(isinstance(m, SyncBatchNorm) for m in norms)
    off = module_of("method.sync_batchnorm=false")
    assert not any(isinstance(m, SyncBatchNorm) for m in off.modules())


def test_linear_heads_start_as_in_clip():
    """N(0, 1/D) on both sides."""
    module = module_of("model.open_clip.embed_dim=256")
    image = module.encoder.model.visual.head.proj.weight
    text = module.encoder.model.text_projection
    assert abs(float(image.std()) * image.shape[1] ** 0.5 - 1) < 0.05
    assert abs(float(text.std()) * text.shape[0] ** 0.5 - 1) < 0.05


def test_heads_of_clean_and_augmented_views_are_shared_but_for_the_last_norm():
    """Flag `separate_children`: apart; without it only the norms without weights are two."""
    shared = module_of("method.name=siamlip").heads.child["image"]
    apart = module_of("method.name=siamlip", "method.separate_children=true").heads.child["image"]
    assert (len(shared.projector), len(shared.predictor), len(shared.last)) == (1, 1, 2)
    assert (len(apart.projector), len(apart.predictor), len(apart.last)) == (2, 2, 2)
    assert all(not norm.affine for norm in shared.last)


def test_prototypes_are_unit_vectors_and_rest_at_first():
    """SwALIPV1: weight norm with g = 1; no gradient during the first steps."""
    module = module_of(*words_of("swalip", basic=True), "method.freeze_prototypes_steps=1")
    prototypes = module.heads.prototypes
    norms = prototypes.weight.norm(dim=1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)
    module.losses(batch(views=0))["loss"].backward()
    direction = prototypes.parametrizations.weight.original1
    assert direction.grad.any()
    code = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        scores = prototype_scores(module.heads, code)
    torch.testing.assert_close(scores, prototype_scores(module.heads, code))
    module.on_before_optimizer_step(None)
    assert direction.grad is None


@cache
def of_one_process():
    """Neither option does anything there."""
    return two_steps(["method.gather_grad=true"], distributed=False)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["method.sync_batchnorm=false", "method.gather_grad=false"])
def test_items_12_and_15_twins_without_either_they_differ(two_ranks, word):
    """Checklist 12, 15: the comparison above can fail."""
    actual = two_ranks.run(two_steps, words=["method.gather_grad=true", word], distributed=True)[0]
    whole = of_one_process()
    name = "encoder.model.text_projection"
    assert not torch.allclose(actual[f"grad {name}"], whole[f"grad {name}"], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.num_augs=0"], "needs views"),
        (["method.name=swalip"], "label_smoothing=0"),
        (["method.name=swalip", "method.label_smoothing=0", "data.num_augs=1"], "num_augs 2"),
        (["data.asymmetric=true", "data.num_augs=3"], "num_augs=2"),
        (["data.photos=100"], "source=pool"),
        (["eval.protocols=[zeroshot,linear_probe]"], "zero-shot alone"),
        (["eval.validate=resisc45"], "go together"),
        (["trainer.val_every_n_steps=2"], "go together"),
        (["data.source=webdataset", "data.shards=null"], "data.shards"),
        (["method.name=moco"], "moco"),
        (["method.label_smoothing=1.0"], "label_smoothing"),
    ],
)
def test_item_9_options_that_do_not_go_together_are_refused(words, message):
    """Checklist 9: SwALIP needs smoothing 0; and other contradictions."""
    with pytest.raises(UserError, match=message):
        config(*words)


def test_towers_that_cannot_be_taken_apart_are_refused():
    place = "model.open_clip.vision_cfg"
    sizes = ("timm_model_name=null", "layers=[1,1,1,1]", "width=16", "head_width=16")
    with pytest.raises(UserError, match="attention pool"):
        module_of(*(f"{place}.{size}" for size in sizes))
