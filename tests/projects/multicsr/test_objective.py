"""Stage 3: masks, the two losses, golden values."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.losses.functional.info_nce import info_nce
from projects.multicsr.objective import Objective
from projects.multicsr.official import keep_mask, masked_shares, official_bce
from tests.projects.multicsr.conftest import GOLDEN, golden_views
from tests.projects.multicsr.workers import loss_and_gradient
from tests.unit.losses.golden import assert_close


def random_views(rows: int = 5, dim: int = 6, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, rows, dim, generator=generator, dtype=torch.float64).unbind(0)


@pytest.mark.parametrize("case", GOLDEN)
def test_official_bce_has_the_golden_values(case):
    """Checklist 11: loss, cosines of the mask model, mask and gradients of the release."""
    student, teacher = golden_views(case)
    expected = case["outputs"]
    keep = keep_mask(*teacher.unbind(1), case["phi"])
    assert keep.int().tolist() == expected["keep_mask_rows"]
    unit = F.normalize(teacher, dim=2)
    cosine = unit[:, 0] @ torch.cat([unit[:, 1], unit[:, 2]]).T
    assert_close(cosine, expected["teacher_cosine_rows"])
    objective = Objective(case["temperature"], "official_bce", case["phi"])
    out = objective(student.unbind(1), teacher.unbind(1))
    out.loss.backward()
    assert_close(out.loss, expected["loss"])
    grad = student.grad
    for view, name in enumerate(("anchor", "positive", "hard_negative")):
        assert_close(grad[:, view].norm(), expected[f"grad_norm_{name}"])
    assert_close(grad[0, 0], expected["grad_anchor_row0_first5"])
    assert_close(grad[1, 2], expected["grad_hardneg_row1_first5"])


def test_a_masked_entry_counts_as_one_in_the_release_and_not_at_all_in_the_paper():
    """Checklist 11: exp(0) in the denominator against nothing."""
    views = random_views()
    anchor, positive, negative = (F.normalize(view, dim=1) for view in views)
    guides = random_views(seed=1)
    keep = keep_mask(*guides, 0.3)
    assert 0 < (~keep).sum() < keep.numel() - len(keep)
    s = anchor @ torch.cat([positive, negative]).T / 0.1
    own, hot = s.diagonal(), torch.eye(5, 10, dtype=torch.float64)
    left_out = (s.exp() * keep).sum(1).log() - own
    assert_close(Objective(0.1, phi=0.3)(views, guides).loss, left_out.mean())
    p = torch.where(keep, s, 0.0).exp()
    p = p / p.sum(1, keepdim=True)
    expected = -(hot * p.log() + (1 - hot) * (1 - p).log()).mean()
    assert_close(Objective(0.1, "official_bce", 0.3)(views, guides).loss, expected)


def test_the_own_positive_is_never_masked_and_the_own_hard_negative_can_be():
    """Checklist 7 and 8: all three texts alike for the mask model."""
    same = torch.ones(4, 3)
    keep = keep_mask(same, same, same, 0.95)
    assert torch.equal(keep, torch.eye(4, 8, dtype=torch.bool))
    foreign, hard = masked_shares(keep)
    assert float(foreign) == float(hard) == 1
    views = random_views(4)
    assert_close(Objective(0.05)(views, (same, same, same)).loss, 0.0)  # the positive alone is left
    own = torch.eye(4, 8)
    only_hard = keep_mask(own, own.roll(4, 1), own, 0.95)  # own hard negatives are alike, no others
    assert (~only_hard).nonzero().tolist() == [[i, 4 + i] for i in range(4)]
    assert [float(x) for x in masked_shares(only_hard)] == [0, 1]


def test_equality_with_the_threshold_is_kept():
    """Checklist 7: m = 1[c <= phi]."""
    anchor = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keep = keep_mask(anchor, anchor.flip(0), anchor, 0.0)
    assert keep.tolist() == [[True, False, False, True], [False, True, True, False]]


def test_half_precision_does_not_move_the_threshold():
    """A cosine of 0.951 exceeds 0.95; bfloat16 has none between 0.9492 and 0.9531."""
    anchor = torch.tensor([[1.0, 0.0]])
    near = torch.tensor([[0.951, (1 - 0.951**2) ** 0.5]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert keep_mask(anchor, anchor, near, 0.95).tolist() == [[True, False]]


@pytest.mark.parametrize("guided", [True, False])
def test_without_masking_it_is_supervised_simcse(guided):
    """Checklist 1 and 10: phi above 1, or stage 3 off, gives SimCSE's loss with hard negatives."""
    views, guides = random_views(), random_views(seed=2)
    actual = Objective(0.05, phi=1.1)(views, guides if guided else None).loss
    unit = [F.normalize(view, dim=1) for view in views]
    assert_close(actual, info_nce(unit[0], unit[1], 20.0, hard_negatives=unit[2]).loss)
    masked = Objective(0.05, phi=0.1)(views, guides).loss
    assert float(masked) < float(actual)


def test_the_threshold_is_a_cosine_at_any_temperature():
    """Deviation: the release compares cosine / tau with 20 phi, the same for tau = 0.05 alone."""
    views, guides = random_views(), random_views(seed=1)
    keep = keep_mask(*guides, 0.3)
    for tau in (0.05, 0.5):
        actual = Objective(tau, "official_bce", 0.3)(views, guides).loss
        assert_close(actual, official_bce(*views, keep, tau).loss)


def test_probabilities_of_one_stay_finite():
    """Checklist 14: log(1 - p) is clamped at 1e-7, in float32 for half precision as well."""
    near = torch.eye(3, 8, dtype=torch.bfloat16).requires_grad_()
    far = -torch.eye(3, 8, dtype=torch.bfloat16)
    wrong = near.detach().roll(1, 0)  # the own positive is opposite, another one has p = 1
    keep = torch.ones(3, 6, dtype=torch.bool)
    out = official_bce(near, wrong, far, keep, 0.01)
    assert out.loss.dtype == torch.float32
    assert torch.isfinite(out.loss)
    out.loss.backward()
    assert torch.isfinite(near.grad).all()
    # of six entries a row two count: -log p = 100 of the own positive, -log 1e-7 of the other row's
    assert float(out.loss) == pytest.approx((100 + 7 * math.log(10)) / 6, rel=1e-4)


def test_a_masked_column_does_not_count_against_a_hit():
    """The first row's hard negative is nearer than its positive, and masked."""
    anchor = torch.eye(2)
    positive, negative = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]), torch.eye(2, 3)
    anchor = torch.nn.functional.pad(anchor, (0, 1))
    keep = torch.ones(2, 4, dtype=torch.bool)
    assert official_bce(anchor, positive, negative, keep).hits.tolist() == [False, True]
    keep[0, 2] = False
    assert official_bce(anchor, positive, negative, keep).hits.tolist() == [True, True]


@pytest.mark.parametrize("variant", ["masked_infonce", "official_bce"])
def test_two_ranks_mask_with_all_columns(two_ranks, variant):
    """Checklist 12: loss and gradient of two processes are those of one on the whole batch."""
    wanted_loss, expected = loss_and_gradient(variant, distributed=False)
    actual = two_ranks.run(loss_and_gradient, variant=variant, distributed=True)
    assert sum(loss for loss, _ in actual) / 2 == pytest.approx(wanted_loss, rel=1e-9)
    for _, grad in actual:
        torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-12)
