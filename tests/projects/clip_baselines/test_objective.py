"""Losses against the golden values of the official code (checklist items 3-6, 8-12)."""

import pytest
import torch

from common.distributed import process
from common.losses.functional.info_nce import clip
from common.losses.functional.non_contrastive import sinkhorn
from common.losses.output import unit
from projects.clip_baselines import lips, objective
from projects.clip_baselines.lips import barlip, siamlip, swalip, swalip_v1
from projects.clip_baselines.objective import cl2l
from tests.projects.clip_baselines.conftest import GOLDEN, matrix
from tests.projects.clip_baselines.workers import golden_rank

PHASES = {
    "z_image_global": 1,
    "z_text_global": 2,
    "h_image_local[0]": 3,
    "h_image_local[1]": 4,
    "h_text_local[0]": 5,
    "h_text_local[1]": 6,
    "v_image": 7,
    "v_text": 8,
    "v_image_local[0]": 9,
    "v_image_local[1]": 10,
    "v_text_local[0]": 11,
    "v_text_local[1]": 12,
    "p_image": 13,
    "p_text": 14,
    "p_image_local[0]": 15,
    "p_image_local[1]": 16,
    "p_text_local[0]": 17,
    "p_text_local[1]": 18,
    "v_image_momentum": 19,
    "v_text_momentum": 20,
    "v_image_local_momentum[0]": 21,
    "v_image_local_momentum[1]": 22,
    "v_text_local_momentum[0]": 23,
    "v_text_local_momentum[1]": 24,
}


def near(value, expected):
    return float(value) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def inputs(rows, dim):
    actual = {name: matrix(phase, rows, dim) for name, phase in PHASES.items()}
    scales = torch.tensor(1 / 0.07, dtype=torch.float64), torch.tensor(10.0, dtype=torch.float64)
    actual["logit_scale"], actual["h_logit_scale"] = (s.requires_grad_() for s in scales)
    return actual


def side(x, letter, name, momentum=""):
    return [
        x[f"{letter}_{name}{momentum}"],
        *(x[f"{letter}_{name}_local{momentum}[{i}]"] for i in range(2)),
    ]


def golden_cl2l(x, **options):
    views = [[x[f"h_{name}_local[{i}]"] for i in range(2)] for name in ("image", "text")]
    globals_ = x["z_image_global"], x["z_text_global"]
    return cl2l(*globals_, *views, x["logit_scale"], x["h_logit_scale"], **options)


def term(case, x):
    """Name of the term that a *LIP adds, its value and weight."""
    name = case["class"].split()[0]
    momentum = "_momentum" if "momentum targets" in case["class"] else ""
    if name == "BarLIPLoss":
        return "barlip_loss", barlip(side(x, "v", "image"), side(x, "v", "text")), 1.0
    if name == "SiamLIPLoss":
        predicted = side(x, "p", "image"), side(x, "p", "text")
        codes = side(x, "v", "image", momentum), side(x, "v", "text", momentum)
        return "siamlip_loss", siamlip(*predicted, *codes), 1.0
    views = [[x[f"h_{n}_local[{i}]"] for i in range(2)] for n in ("image", "text")]
    return "swalip_loss", swalip(*views, x["h_logit_scale"]), 0.2


@pytest.mark.parametrize("case", GOLDEN["losses"], ids=lambda c: f"{c['class'][:11]}-{c['N']}")
def test_items_3_6_7_8_9_losses_and_gradients_equal_the_golden_values(case):
    """Checklist 3, 6, 8, 9: loss, its parts and every gradient; null means that none arrives."""
    x = inputs(case["N"], case["d"])
    options = {"label_smoothing": case["label_smoothing"], "reduction": case["loss_avg_or_sum"]}
    terms = golden_cl2l(x, **options)
    loss, values = terms["loss"], case["values"]
    if case["class"] != "CL2LLoss":
        name, extra, weight = term(case, x)
        assert near(extra, values[name])
        loss = loss + weight * extra
    assert near(loss, values["loss"])
    assert near(terms["clip"], values["clip_loss"])
    for part in ("global", "local"):
        both = values[f"clip_loss_image_{part}"], values[f"clip_loss_text_{part}"]
        assert near(terms[f"clip_{part}"], sum(both) / 2)
    loss.backward()
    for name, expected in case["grads"].items():
        if expected is None:
            assert x[name].grad is None, name
            continue
        assert near(x[name].grad.norm(), expected["norm"]), name
        for ours, theirs in zip(x[name].grad.flatten(), expected["first3"], strict=False):
            assert near(ours, theirs), name


def test_item_3_smoothing_acts_on_the_views_alone_and_weights_are_one_and_k():
    """Checklist 3: the clean pair's term is the same with smoothing; L = (g + K l) / (1 + K)."""
    x = inputs(6, 8)
    with_it, without = (golden_cl2l(x, label_smoothing=a) for a in (0.1, 0.0))
    assert torch.equal(with_it["clip_global"], without["clip_global"])
    assert not torch.equal(with_it["clip_local"], without["clip_local"])
    total = (with_it["clip_global"] + 2 * with_it["clip_local"]) / 3
    assert near(with_it["loss"], total.item())


def test_item_4_sum_is_twice_the_mean_and_nothing_else():
    """Checklist 4: the loss doubles, every logged part stays."""
    x = inputs(6, 8)
    mean, total = (golden_cl2l(x, label_smoothing=0.1, reduction=r) for r in ("avg", "sum"))
    assert near(total["loss"], 2 * mean["loss"].item())
    assert all(torch.equal(mean[k], total[k]) for k in ("clip", "clip_global", "clip_local"))


def test_item_5_without_views_it_is_plain_clip():
    """Checklist 5: K = 0, whatever the smoothing."""
    z = matrix(1, 6, 8), matrix(2, 6, 8)
    actual = cl2l(*z, [], [], 1 / 0.07, 10.0, label_smoothing=0.1)["loss"]
    assert near(actual, clip(unit(z[0]), unit(z[1]), 1 / 0.07).loss.item())
    assert near(actual, GOLDEN["swalip_v1"]["clip_loss"])


def test_different_numbers_of_views_are_refused():
    m = matrix(1, 4, 3)
    with pytest.raises(ValueError, match="1 views of the images, 2 of the texts"):
        cl2l(m, m, [m], [m, m], 1.0, 1.0)
    with pytest.raises(ValueError, match="two views"):
        swalip([m], [m], 1.0)


def test_item_8_barlip_factors_and_number_of_pairs(monkeypatch):
    """Checklist 8: overall 0.025, off-diagonal 5e-3, mean over 1 + K^2 pairs."""
    seen = []
    monkeypatch.setattr(
        lips,
        "barlow_twins",
        lambda a, b, **o: seen.append(o) or torch.tensor(float(len(seen)), dtype=torch.float64),
    )
    codes = [matrix(i, 4, 3) for i in range(3)]
    assert near(barlip(codes, codes), 0.025 * (1 + 2 + 3 + 4 + 5) / 5)
    assert {o["off_diagonal"] for o in seen} == {5e-3}


def test_item_9_targets_are_those_of_the_complementary_pair(monkeypatch):
    """Checklist 9: pair (a, b) is trained towards (1 - a, 1 - b), targets without gradient."""
    pairs = []
    original = lips.swapped_prediction

    def spy(target, scores, *args, **options):
        assert not target.requires_grad
        pairs.append((target, scores))
        return original(target, scores, *args, **options)

    monkeypatch.setattr(lips, "swapped_prediction", spy)
    h = [matrix(3, 6, 8), matrix(4, 6, 8)], [matrix(5, 6, 8), matrix(6, 6, 8)]
    swalip(*h, 10.0)
    scores = [[unit(a) @ unit(b).T for b in h[1]] for a in h[0]]
    for a in range(2):
        for b in range(2):
            target, trained = pairs[2 * a + b]
            assert torch.allclose(trained, scores[a][b])
            assert torch.allclose(target, sinkhorn(scores[1 - a][1 - b]))


@pytest.mark.parametrize("case", GOLDEN["sinkhorn"], ids=lambda c: f"{c['N']}x{c['K']}")
def test_item_10_sinkhorn(case):
    """Checklist 10: rows sum to 1, first row and column sums of the golden matrices."""
    size = case["N"] * case["K"]
    scores = torch.cos(1 + torch.arange(size, dtype=torch.float64).reshape(case["N"], case["K"]))
    actual = sinkhorn(scores)
    for ours, theirs in (
        (actual.sum(1), case["row_sums"]),
        (actual.sum(0), case["col_sums"]),
        (actual[0], case["first_row"]),
    ):
        torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64))


def test_item_9_prototypes_equal_the_golden_value():
    """Checklist 9, basic form: SwALIPV1 over shared prototypes."""
    index = torch.arange(60, dtype=torch.float64).reshape(6, 10)
    actual = swalip_v1(torch.cos(1 + index), torch.cos(2 + index), 10.0)
    assert near(actual, GOLDEN["swalip_v1"]["swalip_loss"])
    z = matrix(1, 6, 8), matrix(2, 6, 8)
    total = cl2l(*z, [], [], 1 / 0.07, 10.0)["loss"] + actual
    assert near(total, GOLDEN["swalip_v1"]["loss"])


def test_item_12_keys_of_two_ranks_are_detached_by_default(two_ranks):
    """Checklist 12: losses and gradients of either rank equal the golden values."""
    for actual, expected in zip(
        two_ranks.run(golden_rank), GOLDEN["two_ranks"]["results"], strict=True
    ):
        assert actual.keys() == expected.keys()
        for name, values in expected.items():
            for key, value in values.items():
                assert near(actual[name][key], value), (name, key)


def test_item_12_the_flag_lets_gradients_through_the_keys(two_ranks):
    """Checklist 12: same losses, other gradients."""
    for actual, golden in zip(
        two_ranks.run(golden_rank, gather_grad=True), GOLDEN["two_ranks"]["results"], strict=True
    ):
        for name, values in golden.items():
            assert near(actual[name]["loss"], values["loss"])
            assert not near(
                actual[name]["grad_norm_h_image_local0"], values["grad_norm_h_image_local0"]
            )


def test_item_12_one_process_keeps_the_gradient_of_the_keys():
    """Checklist 12: the flag changes nothing on one process."""
    assert process.world_size() == 1
    z = matrix(1, 4, 3), matrix(2, 4, 3)
    both = [objective.pair_loss(unit(z[0]), unit(z[1]), 5.0, 0.1, flag) for flag in (True, False)]
    grads = [torch.autograd.grad(loss, z[1])[0] for loss in both]
    assert torch.equal(*grads)


def test_16_bit_training_forms_the_cosines_in_float32():
    """SwALIP and CL2L: equal embeddings give equal losses in and out of autocast."""
    g = torch.Generator().manual_seed(0)
    h = [[torch.randn(16, 8, generator=g) for _ in range(2)] for _ in range(2)]
    scale = torch.tensor(10.0)
    with torch.autocast("cpu", torch.bfloat16):
        actual = swalip(*h, scale), cl2l(h[0][0], h[1][0], *h, scale, scale)["loss"]
    torch.testing.assert_close(actual[0], swalip(*h, scale))
    torch.testing.assert_close(actual[1], cl2l(h[0][0], h[1][0], *h, scale, scale)["loss"])
