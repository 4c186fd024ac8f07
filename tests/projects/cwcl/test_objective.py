"""Weights, targets, both directions, golden values, weight modes, ranks (checklist 1-4, 6-9,
12)."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from common.config import ROOT, UserError
from common.losses.temperature import LogitScale
from projects.cwcl.objective import Objective, similarity_weights, soft_targets
from projects.cwcl.weights import matching_smoothing, mean_entropy, weight_statistics
from tests.projects.cwcl.conftest import config, dense, module_of, spoken_of, wave
from tests.projects.cwcl.workers import golden_share, golden_whole

GOLDEN = json.loads((ROOT / "tests/golden/cwcl.json").read_text(encoding="utf-8"))["outputs"]


def inputs(case, grad=False):
    rows, dim = case["N"], case["d"]
    anchor, other = wave(1, rows, dim), wave(2, rows, dim)
    return anchor.requires_grad_(grad), other.requires_grad_(grad), wave(3, rows, case["d_w"])


@pytest.mark.parametrize("case", GOLDEN["closed_form"])
@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_item_4_loss_and_gradients_equal_the_closed_form(case, backend):
    """Checklist 4: total, both directions and gradients of the golden file, with both back ends."""
    anchor, other, features = inputs(case, grad=True)
    scale = case["logit_scale"]
    out = Objective("cosine", backend=backend)(anchor, other, scale, features)
    assert out.loss.item() == pytest.approx(case["total"], rel=1e-9)
    plain = Objective("binary", backend=backend)(other, anchor, scale).loss
    weighted, back = dense(anchor, other, scale, similarity_weights(features))
    assert weighted.item() == pytest.approx(case["weighted_direction"], rel=1e-9)
    assert back.item() == pytest.approx(case["plain_direction"], rel=1e-9)
    assert plain.item() != pytest.approx(case["total"], rel=1e-3)
    own = Objective("cosine", backend=backend)(anchor, other, scale).loss
    assert own.item() == pytest.approx(case["weights_from_anchor_embeddings_total"], rel=1e-9)
    out.loss.backward()
    actual = (float(anchor.grad.norm()), float(other.grad.norm()))
    assert actual[0] == pytest.approx(case["grad_norm_anchor_unnormalised"], rel=1e-8)
    assert actual[1] == pytest.approx(case["grad_norm_other_unnormalised"], rel=1e-8)


@pytest.mark.parametrize("case", GOLDEN["third_party_C1"])
def test_item_4_the_third_party_implementation_agrees_to_its_epsilon(case):
    """Checklist 4: it adds 1e-8 to norms and row sums; gradients on the normalised embeddings."""
    anchor, other, features = inputs(case)
    p, q = (F.normalize(x, dim=1).requires_grad_() for x in (anchor, other))
    loss = Objective("cosine")
    loss.cwcl.normalize = (
        False  # the inputs are unit vectors, the gradient is that of a free vector
    )
    out = loss(p, q, case["logit_scale"], features)
    assert out.loss.item() == pytest.approx(case["loss"], abs=1e-7)
    out.loss.backward()
    assert float(p.grad.norm()) == pytest.approx(case["grad_norm_anchor"], rel=1e-7)
    assert float(q.grad.norm()) == pytest.approx(case["grad_norm_other"], rel=1e-7)
    assert q.grad.flatten()[:4].tolist() == pytest.approx(case["grad_other_first4"], rel=1e-6)


@pytest.mark.parametrize("case", GOLDEN["closed_form"])
def test_item_1_weights_are_half_the_cosine_plus_a_half_without_gradient(case):
    """Checklist 1: (cos + 1) / 2 of the frozen features, in [0, 1], diagonal 1, no gradient."""
    features = inputs(case)[2].requires_grad_()
    weights = similarity_weights(5 * features)
    assert weights[0].tolist() == pytest.approx(case["w_row0"], rel=1e-9)
    assert not weights.requires_grad
    assert bool((weights.diagonal() == 1).all())
    assert 0 <= float(weights.min()) <= float(weights.max()) <= 1
    anchor, other, _ = inputs(case, grad=True)
    Objective("cosine")(anchor, other, 10.0, features).loss.backward()
    assert features.grad is None


def test_item_1_weights_come_from_the_frozen_side_alone():
    """Checklist 1: other trained embeddings leave the weights as they are, other features do
    not."""
    case = GOLDEN["closed_form"][1]
    anchor, other, features = inputs(case)
    total = Objective()(anchor, other, 10.0, features).loss
    weighted, back = dense(anchor, other, 10.0, similarity_weights(features))
    assert total.item() == pytest.approx(float(weighted + back), rel=1e-10)
    swapped, _ = dense(anchor, other, 10.0, similarity_weights(other))
    assert abs(float(swapped + back) - total.item()) > 0.1


def test_item_2_rows_sum_to_one_and_the_identity_gives_info_nce():
    """Checklist 2: targets are distributions; identity weights give the sum of both InfoNCE."""
    anchor, other, features = inputs(GOLDEN["closed_form"][1])
    targets = soft_targets(similarity_weights(features))
    assert torch.allclose(targets.sum(1), torch.ones(8, dtype=torch.float64))
    binary = Objective("binary")(anchor, other, 10.0).loss
    weighted, back = dense(anchor, other, 10.0, torch.eye(8))
    assert binary.item() == pytest.approx(float(weighted + back), rel=1e-10)
    distinct = Objective("classes")(anchor, other, 10.0, None, torch.arange(8)).loss
    assert distinct.item() == pytest.approx(binary.item(), rel=1e-10)
    half = Objective("binary", factor=0.5)(anchor, other, 10.0).loss
    assert half.item() == pytest.approx(binary.item() / 2, rel=1e-10)
    assert Objective()(anchor, other, 10.0, features).loss.item() != pytest.approx(binary.item())


def test_items_3_and_9_every_weight_mode_has_its_targets():
    """Checklist 3, 9: one-hot V -> U in all modes but `bidirectional`; each mode written out."""
    anchor, other, features = inputs(GOLDEN["closed_form"][1])
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 3, 3])
    same = (labels[:, None] == labels).double()
    w = similarity_weights(features)
    spread = 0.6 * torch.eye(8, dtype=torch.float64) + 0.4 / 8
    written = {
        "cosine": (w, None),
        "bidirectional": (w, w),
        "binary": (torch.eye(8), None),
        "classes": (same, None),
        "smoothing": (spread, None),
    }
    for mode, (weights, reverse) in written.items():
        share = 0.4 if mode == "smoothing" else 0.0
        actual = Objective(mode, smoothing=share)(anchor, other, 10.0, features, labels)
        expected = sum(dense(anchor, other, 10.0, weights, reverse))
        assert actual.loss.item() == pytest.approx(float(expected), rel=1e-9), mode
        assert actual.per_sample.mean().item() == pytest.approx(float(expected), rel=1e-9), mode
        cfg = config(f"method.weight_mode={mode}", f"method.smoothing={share}")
        assert cfg.method.weight_mode == mode


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_item_6_soft_targets_are_computed_in_float32_and_stay_finite(dtype):
    """Checklist 6: half precision in, float32 loss out; probabilities that underflow are no log
    0."""
    p = F.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=1).to(dtype)
    q = (-p).requires_grad_()
    out = Objective("cosine")(p, q, 100.0, p)
    assert out.loss.dtype == torch.float32
    out.loss.backward()
    assert bool(torch.isfinite(out.loss))
    assert bool(torch.isfinite(q.grad).all())
    exact = sum(dense(p.double(), q.detach().double(), 100.0, similarity_weights(p)))
    assert out.loss.item() == pytest.approx(float(exact), rel=1e-2)


def test_item_7_duplicates_share_the_target_evenly():
    """Checklist 7: equal frozen embeddings are equal positives, each with the same mass."""
    features = wave(1, 1, 6).repeat(4, 1)
    assert torch.allclose(
        soft_targets(similarity_weights(features)), torch.full((4, 4), 0.25).double()
    )
    three = torch.cat([features[:3], -features[:1]])
    targets = soft_targets(similarity_weights(three))
    assert targets[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-12)


@pytest.mark.parametrize("mode", ["cosine", "bidirectional", "classes"])
def test_item_8_mean_over_ranks_is_the_loss_of_the_whole_batch(two_ranks, mode):
    """Checklist 8: loss and gradients (which DDP averages), weights included."""
    loss, gradient = golden_whole(mode)
    parts = two_ranks.run(golden_share, mode=mode)
    assert sum(part[0] for part in parts) / 2 == pytest.approx(loss, rel=1e-10)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]) / 2, gradient)
    if mode == "cosine":  # the comparison can fail
        alone = two_ranks.run(golden_share, mode=mode, local=True)
        assert abs(sum(part[0] for part in alone) / 2 - loss) > 0.1


@pytest.mark.parametrize("make", [module_of, spoken_of])
def test_item_12_the_multiplier_is_clamped_after_every_step(make):
    """Checklist 12: starts at 1 / 0.07, stays in [1, 100]; of both pairs of modalities."""
    module = make()
    assert float(module.logit_scale()) == pytest.approx(1 / 0.07, rel=1e-6)
    assert isinstance(module.logit_scale, LogitScale)
    for value, expected in ((7.0, math.log(100)), (-3.0, 0.0)):
        module.logit_scale.log_scale.data.fill_(value)
        module.after_optimizer_step()
        assert float(module.logit_scale.log_scale) == pytest.approx(expected, abs=1e-6)


def test_matching_smoothing_has_the_entropy_of_the_targets():
    """The control for flat targets is as flat as they are."""
    targets = soft_targets(similarity_weights(wave(3, 8, 12)))
    share = matching_smoothing(mean_entropy(targets), 8)
    smoothed = (1 - share) * torch.eye(8).double() + share / 8
    assert mean_entropy(smoothed) == pytest.approx(mean_entropy(targets), rel=1e-9)
    with pytest.raises(ValueError, match="no smoothed target"):
        matching_smoothing(math.log(8), 8)
    actual = weight_statistics(wave(3, 8, 12), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    assert actual["matching_smoothing"] == pytest.approx(share)
    assert actual["mass_same_class_chance"] == 0.5
    assert actual["weight_same_class"] > actual["weight_other_class"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.locked=false", "model.cache=false", "model.centred=false"],
            "takes its weights from a",
        ),
        (["model.vision_pretrained=random"], "name its weights"),
        (["model.augment=true"], "model.augment=false"),
        (["method.smoothing=0.1"], "goes with method.weight_mode=smoothing"),
        (["method.weight_mode=cosin"], "weight_mode"),
        (["method.weight_mode=classes", "data.source=csv", "data.captions=x.csv"], "needs labels"),
        (["data.right_words=0.7", "data.wrong_words=0.7"], "shares of all captions"),
        (["model.locked=false", "method.weight_mode=binary"], "need model.locked=true"),
        (["model.vision_pretrained=random", "model.pretrained=x"], "with model.vision set"),
        (["eval.keywords=speech_commands"], "no meaning with pair=image_text"),
    ],
)
def test_contradicting_settings_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        config(*words)
    with pytest.raises(ValueError, match="needs labels"):
        Objective("classes")(torch.eye(2), torch.eye(2), 1.0)
    with pytest.raises(ValueError, match="weight_mode"):
        Objective("cos")
