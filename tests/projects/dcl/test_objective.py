"""The objective: golden values and the checklist items on the equations (1-8, 10-12)."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.losses.functional.two_view import (
    anchor_scores,
    dcl,
    npc_multiplier,
    von_mises_fisher_weight,
)
from common.losses.two_view import DCLLoss, NTXentLoss
from projects.dcl.evaluate import gradient_identity_error
from projects.dcl.objective import OneWayObjective, TwoViewObjective
from tests.projects.dcl.conftest import GOLDEN, method, random_views, views, wave
from tests.projects.dcl.workers import one_rank_loss

CASES = [pytest.param(c, id=f"N{c['N']}-tau{c['temperature']}") for c in GOLDEN["cases"]]
EXACT = {"rtol": 0.0, "atol": 1e-10}


def close(found, wanted):
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    found = torch.as_tensor(found, dtype=torch.float64).detach().flatten()[: wanted.numel()]
    torch.testing.assert_close(found.view_as(wanted), wanted, **EXACT)


def objective(case, loss, **options):
    cfg = method(loss, case["temperature"], sigma=case["sigma"], **options)
    return TwoViewObjective(cfg)


# -- golden --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss", ["DCL", "DCLW"])
def test_item_3_sum_and_gradients_equal_the_golden_values(case, loss):
    """Item 3: DCL(z1, z2) + DCL(z2, z1) and its gradients, to 1e-10 in float64."""
    golden = case["outputs"][loss]
    x_1, x_2 = views(case)
    value = objective(case, loss.lower())(x_1, x_2).loss
    close(value, golden["sum"])
    value.backward()
    close(x_1.grad.norm(), golden["grad_norm_x1"])
    close(x_2.grad, golden["grad_x2_first4"])

    z_1, z_2 = (F.normalize(x.detach(), dim=1).requires_grad_() for x in (x_1, x_2))
    on_sphere = objective(case, loss.lower())
    on_sphere.loss.normalize = False
    on_sphere(z_1, z_2).loss.backward()
    close(z_1.grad.norm(), golden["grad_norm_z1"])
    close(z_2.grad.norm(), golden["grad_norm_z2"])
    close(z_1.grad, golden["grad_z1_first4"])


@pytest.mark.parametrize("case", CASES)
def test_item_3_one_way_values_and_weights_equal_the_golden_values(case):
    """Item 3: each direction alone, and the weights of DCLW."""
    z_1, z_2 = (F.normalize(x.detach(), dim=1) for x in views(case))
    scale, size = 1 / case["temperature"], case["N"]
    scores = anchor_scores(z_1, z_2, scale)
    weight = von_mises_fisher_weight((z_1 * z_2).sum(1), case["sigma"])
    close(weight, case["outputs"]["DCLW"]["weights_12_first4"])
    for name, w in (("DCL", torch.ones_like(weight)), ("DCLW", weight)):
        one_way = scores.negatives - torch.cat([w, w]) * scores.positive
        close(one_way[:size].mean(), case["outputs"][name]["one_way_12"])
        close(one_way[size:].mean(), case["outputs"][name]["one_way_21"])


@pytest.mark.parametrize("case", CASES)
def test_formulas_of_the_golden_file(case):
    """Exact mask, NT-Xent and both queue losses."""
    outputs, (x_1, x_2) = case["outputs"], views(case)
    close(objective(case, "dcl")(x_1, x_2).loss, outputs["formula_exact_mask_DCL_sum"])
    mean = objective(case, "infonce", reduction="mean")(x_1, x_2).loss
    close(mean, outputs["formula_simclr_ntxent_mean_over_2N"])
    queue = wave(3 * case["N"], case["d"], 0.5)
    for loss in ("dcl", "infonce"):
        moco = OneWayObjective(method(loss, case["temperature"]), in_batch=False)
        close(moco(x_1, x_2, queue).loss, outputs[f"formula_moco_{loss}_mean"])


def test_golden_comparison_can_fail():
    """Negative twin: another temperature misses the values."""
    case = GOLDEN["cases"][0]
    actual = TwoViewObjective(method("dcl", 0.3))(*views(case)).loss
    assert abs(float(actual) - case["outputs"]["DCL"]["sum"]) > 0.01


# -- checklist -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 5, 8])
def test_item_1_the_sum_covers_2n_minus_2_entries(rows):
    """Item 1: with equal vectors every term is e^(1/tau), so log U - p is the log of the count."""
    same = torch.ones(rows, 4, dtype=torch.float64)
    loss = TwoViewObjective(method("dcl"))(same, same).loss
    close(loss, 2 * torch.log(torch.tensor(2.0 * rows - 2, dtype=torch.float64)))


def test_item_1_neither_self_nor_positive_enters_the_sum():
    """Item 1: U against an explicit sum over the other samples of both views."""
    z_1, z_2 = random_views(5)
    both = torch.cat([z_1, z_2])
    logits = both @ both.T / 0.1
    index = torch.arange(10)
    other = (index[:, None] - index) % 5 != 0
    expected = logits.masked_fill(~other, -torch.inf).logsumexp(1)
    assert (other.sum(1) == 8).all()
    close(anchor_scores(z_1, z_2, 10.0).negatives, expected)


@pytest.mark.parametrize("host", ["simclr", "nnclr"])
@pytest.mark.parametrize("loss", ["infonce", "dcl", "dclw"])
def test_item_1_negatives_of_all_ranks_count(two_ranks, loss, host):
    """Item 1: two ranks give the loss of the global batch; without gathering they do not."""
    z_1, z_2 = random_views(6)
    whole, options = method(loss), method(loss, gather=False)
    if host == "simclr":
        expected = float(TwoViewObjective(whole)(z_1, z_2).loss)
        local = float(TwoViewObjective(options)(z_1[:3], z_2[:3]).loss)
    else:
        expected = float(OneWayObjective(whole, in_batch=True)(z_1, z_2).loss)
        local = float(OneWayObjective(options, in_batch=True)(z_1[:3], z_2[:3]).loss)
    actual = two_ranks.run(one_rank_loss, loss=loss, host=host)
    assert sum(actual) / 2 == pytest.approx(expected, abs=1e-10)
    assert abs(local - expected) > 1e-3


def test_item_2_queue_loss_sees_the_queue_alone():
    """Item 2: neither the positive nor other keys of the batch are in MoCo-DCL's denominator."""
    q, k = random_views(5)
    queue = F.normalize(wave(12, 8, 0.5), dim=1)
    expected = ((q @ queue.T / 0.1).logsumexp(1) - (q * k).sum(1) / 0.1).mean()
    close(OneWayObjective(method("dcl"), in_batch=False)(q, k, queue).loss, expected)
    coupled = OneWayObjective(method("infonce"), in_batch=False)(q, k, queue).loss
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / 0.1
    close(coupled, F.cross_entropy(logits, torch.zeros(5, dtype=torch.long)))
    assert float(coupled) > float(expected)


def test_nnclr_loss_is_the_formula_of_the_paper():
    """-<nn_i, p_i>/tau + log sum_{j != i} exp(<nn_i, p_j>/tau)."""
    nn_, p = random_views(5)
    logits = nn_ @ p.T / 0.1
    own = torch.eye(5, dtype=torch.bool)
    expected = (logits.masked_fill(own, -torch.inf).logsumexp(1) - logits.diagonal()).mean()
    close(OneWayObjective(method("dcl"), in_batch=True)(nn_, p).loss, expected)


def test_item_4_weights_average_to_one_and_punish_easy_pairs():
    """Item 4: mean 1; below 1 exactly where the exponentiated cosine is above average."""
    cosine = torch.linspace(-0.9, 0.95, 17, dtype=torch.float64)
    weight = von_mises_fisher_weight(cosine, 0.5)
    close(weight.mean(), 1.0)
    exponential = (cosine / 0.5).exp()
    assert torch.equal(weight < 1, exponential > exponential.mean())
    assert float(weight.min()) < 0  # one dominating pair


def test_item_5_keeping_the_positive_gives_the_shared_infonce():
    """Item 5: the same log-sums with the positive added are NT-Xent; without it they are DCL."""
    z_1, z_2 = random_views(7)
    scores = anchor_scores(z_1, z_2, 10.0)
    with_positive = torch.logaddexp(scores.negatives, scores.positive) - scores.positive
    close(with_positive.mean(), NTXentLoss()(z_1, z_2, 10.0).loss)
    close(TwoViewObjective(method("infonce"))(z_1, z_2).loss, 2 * with_positive.mean())
    close(DCLLoss()(z_1, z_2, 10.0).loss, 2 * (scores.negatives - scores.positive).mean())
    assert abs(float(with_positive.mean() - (scores.negatives - scores.positive).mean())) > 0.01


def test_both_losses_have_the_scale_of_the_reduction():
    z_1, z_2 = random_views(5)
    for loss in ("infonce", "dcl", "dclw"):
        total = TwoViewObjective(method(loss))(z_1, z_2).loss
        mean = TwoViewObjective(method(loss, reduction="mean"))(z_1, z_2).loss
        close(total, 2 * mean)


def test_item_6_infonce_gradient_is_the_multiplier_times_dcl_s():
    """Item 6: per anchor, numerically; and a wrong multiplier does not pass."""
    z_1, z_2 = random_views(9)
    assert gradient_identity_error(z_1, z_2, 0.1) < 1e-10
    q = TwoViewObjective(method("infonce")).npc(z_1, z_2)
    assert ((q > 0) & (q < 1)).all()
    assert float(q.std()) > 0.01  # so that a constant factor would be wrong


def test_item_7_loss_is_negative_for_easy_pairs():
    """Item 7: no clamping."""
    z = torch.eye(4, dtype=torch.float64)
    close(TwoViewObjective(method("dcl"))(z, z).loss, 2 * (math.log(6) - 10))
    easy = OneWayObjective(method("dcl"), in_batch=True)(z, z).loss
    assert float(easy) < 0


def test_item_8_a_constant_on_all_logits_changes_nothing():
    """Item 8: a shared extra coordinate c adds c^2 / tau to every logit."""
    z_1, z_2 = random_views(6)
    raw = TwoViewObjective(method("dcl"))
    raw.loss.normalize = False
    shifted = [torch.cat([z, torch.full((6, 1), 5.0, dtype=z.dtype)], dim=1) for z in (z_1, z_2)]
    close(raw(*shifted).loss, raw(z_1, z_2).loss)


@pytest.mark.parametrize("loss", ["infonce", "dcl", "dclw"])
def test_item_8_finite_at_temperature_0_01_in_float32(loss):
    """Item 8: the reference code's mask of -103 would not exclude logits of 100."""
    z = [x.float().requires_grad_() for x in random_views(6)]
    out = TwoViewObjective(method(loss, 0.01))(*z).loss
    out.backward()
    assert torch.isfinite(out)
    assert all(torch.isfinite(x.grad).all() for x in z)
    exact = TwoViewObjective(method(loss, 0.01))(*random_views(6)).loss
    assert float(out) == pytest.approx(float(exact), rel=1e-4, abs=6e-8)  # one rounding of 1


def test_dclw_weight_carries_gradient_unless_detached():
    """The reference code differentiates through the weight; the value is the same."""
    gradients = []
    for detach in (False, True):
        z_1, z_2 = (x.clone().requires_grad_() for x in random_views(6))
        out = TwoViewObjective(method("dclw", detach_weight=detach))(z_1, z_2).loss
        out.backward()
        gradients.append((float(out), z_1.grad))
    assert gradients[0][0] == gradients[1][0]
    assert not torch.allclose(gradients[0][1], gradients[1][1])


@pytest.mark.parametrize("sigma", [0.5, 0.2])
@pytest.mark.parametrize("detach", [False, True])
def test_dclw_on_one_way_hosts_is_the_weighted_formula(sigma, detach):
    """Value, and the gradient with and without the weight's own."""
    queue = F.normalize(wave(12, 8, 0.5), dim=1)
    gradients = []
    for own in (True, False):
        q, k = (x.requires_grad_() for x in random_views(5))
        positive = (F.normalize(q, dim=1) * F.normalize(k, dim=1)).sum(1)
        weight = von_mises_fisher_weight(positive, sigma)
        weight = weight.detach() if detach else weight
        scores = F.normalize(q, dim=1) @ queue.T / 0.1
        loss = (scores.logsumexp(1) - weight * positive / 0.1).mean()
        if own:
            cfg = method("dclw", sigma=sigma, detach_weight=detach)
            actual = OneWayObjective(cfg, in_batch=False)(q, k, queue).loss
            close(actual, loss)
            loss = actual
        gradients.append(torch.autograd.grad(loss, (q, k)))
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["infonce", "dcl", "dclw"])
def test_hits_are_of_anchors_whose_positive_is_nearest_and_the_coupling_has_no_gradient(loss):
    z = torch.eye(4, dtype=torch.float64).requires_grad_()
    cfg = method(loss)
    two, one = TwoViewObjective(cfg), OneWayObjective(cfg, in_batch=True)
    for out in (two(z, z, diagnose=True), one(z, z)):
        assert out.hits.all()
        assert out.loss.requires_grad
        assert not out.npc.requires_grad
    for out in (two(z, z.roll(1, 0)), one(z, z.roll(1, 0))):
        assert not out.hits.any()


@pytest.mark.parametrize("gather", [False, True])
@pytest.mark.parametrize("loss", ["infonce", "dcl", "dclw"])
def test_gathering_and_backend_are_those_of_the_config(loss, gather):
    cfg = method(loss, gather=gather, loss_backend="blocked")
    for host in (TwoViewObjective(cfg), OneWayObjective(cfg, in_batch=True)):
        assert (host.loss.gather, host.loss.backend) == (gather, "blocked")


@pytest.mark.parametrize("loss", ["infonce", "dcl", "dclw"])
def test_multiplier_is_the_same_for_every_loss(loss):
    """q_B from the losses' own rows (one way) equals its definition."""
    q, k = random_views(5)
    queue = F.normalize(wave(12, 8, 0.5), dim=1)
    gap = (q @ queue.T / 0.1).logsumexp(1), (q * k).sum(1) / 0.1
    close(OneWayObjective(method(loss), in_batch=False)(q, k, queue).npc, npc_multiplier(*gap))


@pytest.mark.parametrize("rows", [3, 17, 33])
@pytest.mark.parametrize("loss", ["dcl", "dclw"])
def test_item_12_blocked_and_dense_agree_for_odd_sizes(loss, rows):
    """Item 12: forward and backward of the tiled path on the CPU."""
    actual = {}
    for backend in ("dense", "blocked"):
        z = [x.clone().requires_grad_() for x in random_views(rows)]
        out = TwoViewObjective(method(loss, loss_backend=backend))(*z).loss
        out.backward()
        actual[backend] = (out, *(x.grad for x in z))
    for left, right in zip(actual["dense"], actual["blocked"], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [3, 129, 515])
def test_item_12_triton_and_dense_agree_for_odd_sizes(rows):
    """Item 12: forward and backward of the fused kernels."""
    actual = {}
    for backend in ("dense", "triton"):
        z = [x.float().cuda().requires_grad_() for x in random_views(rows, 32)]
        out = TwoViewObjective(method("dcl", loss_backend=backend))(*z).loss
        out.backward()
        actual[backend] = (out, *(x.grad for x in z))
    for left, right in zip(actual["dense"], actual["triton"], strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


def test_one_pair_has_no_negatives():
    """An empty set of negatives is refused."""
    z = torch.eye(2)[:1]
    with pytest.raises(ValueError, match="one sample has no negatives"):
        TwoViewObjective(method("dcl"))(z, z)
    with pytest.raises(ValueError, match="one sample has no negatives"):
        dcl(z, z, 10.0)
