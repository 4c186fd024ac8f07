"""The terms of the objective: golden values, masks, degenerate batches, attributes (items 2-6,
10)."""

import math

import pytest
import torch
from torch.nn import functional as F

from projects.sepclr.independence import gaussian_kl
from projects.sepclr.objective import (
    attribute_loss,
    dependence,
    k_jem,
    masked,
    sepclr_terms,
)
from tests.projects.sepclr.conftest import GOLDEN, heads, wave


def close(found, wanted, rel=1e-6):
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    found = torch.as_tensor(found, dtype=torch.float64).detach().flatten()[: wanted.numel()]
    torch.testing.assert_close(found, wanted.flatten(), rtol=rel, atol=1e-12)


def total_of(case, common, salient, target):
    """All terms and the weighted sum of a golden case."""
    terms = sepclr_terms(common, salient, target, case["tau"])
    jem = k_jem(common, salient, target, case["tau"])
    total = (
        terms.common_align
        + 2 * terms.common_uniform
        + case["salient_term_beta"] * (terms.salient_align + 2 * terms.salient_uniform)
        + case["salient_reg_beta"] * terms.salient_reg
        + case["jem_lambda"] * jem
    )
    return {**terms._asdict(), "k_jem": jem, "total": total}


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_item_6_terms_total_and_gradients_are_the_recorded_ones(case):
    """Item 6: float64, 1e-6 relative, for every case of the official program."""
    n, dc, ds = case["N"], case["d_common"], case["d_salient"]
    common = [wave(n, dc, 1.0), wave(n, dc, 1.3)]
    salient = [wave(n, ds, 0.2), wave(n, ds, 0.6)]
    actual = total_of(case, common, salient, torch.arange(n) % 2 == 1)
    expected = case["outputs"]
    for name, value in actual.items():
        close(value, expected[name])
    actual["total"].backward()
    close(common[0].grad.norm(), expected["grad_norm_c1"])
    close(salient[0].grad.norm(), expected["grad_norm_s1"])
    close(common[0].grad, expected["grad_c1_first4"])
    close(salient[0].grad[0], expected["grad_s1_row0_background"])
    close(salient[0].grad[1], expected["grad_s1_row1_target"])


def test_item_6_negative_twin_swapped_sets_give_other_values():
    """Item 6: with target and background exchanged the recorded values are missed."""
    case = GOLDEN["cases"][0]
    n = case["N"]
    common = [wave(n, case["d_common"], 1.0), wave(n, case["d_common"], 1.3)]
    salient = [wave(n, case["d_salient"], 0.2), wave(n, case["d_salient"], 0.6)]
    actual = total_of(case, common, salient, torch.arange(n) % 2 == 0)
    close(actual["common_align"], case["outputs"]["common_align"])
    for name in ("salient_align", "salient_uniform", "salient_reg", "k_jem"):
        assert abs(float(actual[name]) - case["outputs"][name]) > 1e-3, name


def test_item_2_only_the_common_head_is_normalised():
    """Item 2: the length of a common head does not matter, that of a salient head does."""
    common, salient, target = heads(8, 5), heads(8, 3, 1), torch.arange(8) < 4
    whole = sepclr_terms(common, salient, target)
    longer = sepclr_terms([3 * x for x in common], salient, target)
    for a, b in zip(whole, longer, strict=True):
        close(a, b, rel=1e-10)
    stretched = sepclr_terms(common, [3 * x for x in salient], target)
    close(stretched.salient_align, 9 * whole.salient_align)
    close(stretched.salient_reg, 9 * whole.salient_reg)
    assert float(stretched.salient_uniform) < float(whole.salient_uniform)


def test_item_3_background_rows_are_zero_and_carry_no_gradient():
    """Item 3: exactly 0, and only L_r moves the salient code of a background sample."""
    common, salient, target = heads(8, 5), heads(8, 3, 1), torch.arange(8) % 2 == 1
    assert not masked(salient[0], target)[~target].any()
    assert torch.equal(masked(salient[0], target)[target], salient[0][target])
    terms = sepclr_terms(common, salient, target)
    others = terms.salient_align + terms.salient_uniform + terms.common_align
    others = others + dependence("kjem", common, salient, target, 0.5)
    (gradient,) = torch.autograd.grad(others, salient[0], retain_graph=True)
    assert not gradient[~target].any()
    assert gradient[target].abs().sum() > 0
    (pull,) = torch.autograd.grad(terms.salient_reg, salient[0])
    assert not pull[target].any()
    # 1/2 (mean of two views) of the mean over 4 rows of ||s||^2
    torch.testing.assert_close(pull[~target], salient[0].detach()[~target] / 4)


def test_item_4_alignment_sees_targets_and_uniformity_sees_all():
    """Item 4: a background code changes neither, but its number of rows repels targets from 0."""
    common, salient, target = heads(8, 5), heads(8, 3, 1), torch.arange(8) < 4
    whole = sepclr_terms(common, salient, target)
    moved = [torch.where(target[:, None], x, x + 5) for x in salient]
    again = sepclr_terms(common, moved, target)
    assert float(again.salient_align) == float(whole.salient_align)
    assert float(again.salient_uniform) == float(whole.salient_uniform)
    rows = torch.cat([salient[0][:4], torch.zeros(4, 3, dtype=torch.float64)])
    i, j = torch.triu_indices(8, 8, 1)
    distance = (rows[i] - rows[j]).square().sum(1)
    other = torch.cat([salient[1][:4], torch.zeros(4, 3, dtype=torch.float64)])
    other_distance = (other[i] - other[j]).square().sum(1)
    expected = ((-distance).exp().mean().log() + (-other_distance).exp().mean().log()) / 2
    close(whole.salient_uniform, expected, rel=1e-10)
    alone = sepclr_terms([x[:4] for x in common], [x[:4] for x in salient], target[:4])
    assert abs(float(alone.salient_uniform) - float(whole.salient_uniform)) > 0.1


def test_item_5_uniformity_excludes_self_and_joint_entropy_includes_it():
    """Item 5: far apart samples leave J = log(1 / B) from the self pairs, U without bound."""
    far = [100 * x for x in heads(6, 4)]
    target = torch.ones(6, dtype=torch.bool)
    close(k_jem(heads(6, 4, 3), far, target, 0.5), -math.log(6), rel=1e-9)
    assert float(sepclr_terms(heads(6, 4, 3), far, target).salient_uniform) < -100
    common, salient = heads(6, 4, 3), heads(6, 2, 4)
    expected = []
    for c, s in zip(common, salient, strict=True):
        c = F.normalize(c, dim=1)
        distances = torch.cdist(c, c).square() + torch.cdist(s, s).square()
        expected.append((-distances).exp().mean(1).log().mean())
    close(k_jem(common, salient, target, 0.5), torch.stack(expected).mean(), rel=1e-9)


@pytest.mark.parametrize("num_targets", [0, 8])
@pytest.mark.parametrize("kind", ["kjem", "mmd", "correlation"])
def test_item_10_degenerate_batches_are_finite(num_targets, kind):
    """Item 10: all background or all target, values and gradients."""
    common, salient = heads(8, 5), heads(8, 3, 1)
    target = torch.arange(8) < num_targets
    terms = sepclr_terms(common, salient, target)
    total = torch.stack([*terms, dependence(kind, common, salient, target, 0.5)]).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(x.grad).all() for x in (*common, *salient))
    assert float(terms.salient_align if num_targets == 0 else terms.salient_reg) == 0


@pytest.mark.parametrize("kind", ["kjem", "mmd", "correlation"])
def test_item_14_every_penalty_is_larger_for_dependent_codes(kind):
    """Item 14: codes that are copies of each other cost more than a shuffled copy."""
    (code, _), target = heads(64, 4), torch.ones(64, dtype=torch.bool)
    code = F.normalize(code, dim=1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    copy = dependence(kind, [code], [code], target, 0.5)
    shuffled = dependence(kind, [code], [code[order]], target, 0.5)
    assert float(copy) > float(shuffled) + 0.02


# -- supervised ----------------------------------------------------------------------------------


def attributes_of(rows=8):
    generator = torch.Generator().manual_seed(5)
    y = torch.rand(rows, 3, generator=generator, dtype=torch.float64)
    y[:, 0] = torch.arange(rows) % 3
    return y, [True, False, False]


def test_item_12_a_dimension_sees_its_own_attribute_only():
    """Item 12: another value of attribute 1 changes the gradient of dimension 1 and no other."""
    y, discrete = attributes_of()
    target = torch.arange(8) < 6
    s = heads(8, 3)[0]
    (before,) = torch.autograd.grad(attribute_loss(s, target, y, discrete), s)
    changed = y.clone()
    changed[0, 1] = 1 - changed[0, 1]
    (after,) = torch.autograd.grad(attribute_loss(s, target, changed, discrete), s)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_supervised_term_equals_the_explicit_sum():
    y, discrete = attributes_of()
    target, s = torch.arange(8) < 6, heads(8, 3)[0].detach()
    expected = 0.0
    for a in range(3):
        tau = 0.5 if discrete[a] else 0.025
        width = 1e-5 if discrete[a] else 2 * tau
        pulled = [
            torch.exp(-((y[i, a] - y[j, a]) ** 2) / width) * (s[i, a] - s[j, a]) ** 2
            for i in range(6)
            for j in range(i + 1, 6)
        ]
        reg = (s[6:, a] ** 2).mean() / (2 * tau)
        rows = torch.where(target, s[:, a], 0.0)
        gaps = [(rows[i] - rows[j]) ** 2 for i in range(8) for j in range(i + 1, 8)]
        spread = torch.stack(gaps).neg().exp().mean().log()
        expected += (0.5 * (torch.stack(pulled).mean() + reg) + spread) / 3
    close(attribute_loss(s, target, y, discrete), expected, rel=1e-9)


@pytest.mark.parametrize("num_targets", [0, 1, 8])
def test_item_10_supervised_term_of_degenerate_batches(num_targets):
    """Item 10: no target, one target, no background; numbers of the background are NaN."""
    y, discrete = attributes_of()
    target, s = torch.arange(8) < num_targets, heads(8, 3)[0]
    y[~target] = torch.nan
    loss = attribute_loss(s, target, y, discrete)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(s.grad).all()


def test_supervised_term_wants_a_dimension_for_each_attribute():
    y, discrete = attributes_of()
    with pytest.raises(ValueError, match="one salient dimension for each attribute"):
        attribute_loss(heads(8, 2)[0], torch.arange(8) < 4, y, discrete)


def test_gaussian_kl_is_zero_for_the_prior_only():
    zero = torch.zeros(2, 3)
    assert gaussian_kl(zero, zero).tolist() == [0.0, 0.0]
    normal = torch.distributions.Normal(torch.tensor([1.0]), torch.tensor([2.0]))
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    actual = gaussian_kl(torch.tensor([[1.0]]), torch.tensor([[4.0]]).log())
    torch.testing.assert_close(actual, expected)
