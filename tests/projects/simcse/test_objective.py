"""The loss of SimCSE: golden values, shape of the contrast, hard negatives, masked language
model."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError, load
from projects.simcse.config import Config, MethodConfig
from projects.simcse.module import Objective
from tests.projects.simcse.conftest import GOLDEN
from tests.unit.losses.golden import sentence_head, sentences


def dense_logits(z_1, z_2, z_3=None, temperature=0.05, hard_logit=0.0):
    """(N, N) or (N, 2N) logits as the paper writes them."""
    z_1, z_2 = F.normalize(z_1, dim=1), F.normalize(z_2, dim=1)
    logits = z_1 @ z_2.T / temperature
    if z_3 is None:
        return logits
    hard = z_1 @ F.normalize(z_3, dim=1).T / temperature
    return torch.cat([logits, hard + hard_logit * torch.eye(len(z_1), dtype=z_1.dtype)], dim=1)


def vectors(rows=5, dim=8, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["case"])
def test_golden_loss_and_gradients(case):
    """Checklist 11: losses and gradients of the official implementation, float64."""
    h = sentences(case["B"], case["S"], case["d"])
    z = sentence_head(case["d"])(h) if case["mlp"] else h
    method = MethodConfig(
        temperature=case["temperature"], hard_negative_logit=case["hard_negative_logit_weight"]
    )
    out, want = Objective(method)(*z.unbind(1)), case["outputs"]
    out.loss.backward()
    assert float(out.loss.detach()) == pytest.approx(want["loss"], rel=1e-6)
    grad = h.grad
    assert float(grad[:, 0].norm()) == pytest.approx(want["grad_norm_anchor"], rel=1e-6)
    assert float(grad[:, 1].norm()) == pytest.approx(want["grad_norm_positive"], rel=1e-6)
    assert grad[0, 0, :5].tolist() == pytest.approx(want["grad_anchor_row0_first5"], rel=1e-6)
    assert grad[1, 1, :5].tolist() == pytest.approx(want["grad_positive_row1_first5"], rel=1e-6)
    if "grad_norm_hard_negative" in want:
        assert float(grad[:, 2].norm()) == pytest.approx(want["grad_norm_hard_negative"], rel=1e-6)
    logits = dense_logits(
        *z.detach().unbind(1),
        temperature=case["temperature"],
        hard_logit=case["hard_negative_logit_weight"],
    )
    assert list(logits.shape) == want["logits_shape"]
    assert logits[0, :6].tolist() == pytest.approx(want["logits_row0_first6"], rel=1e-6)


def alone(case, anchor=0, **options):
    """The project's logit of an anchor's own hard negative minus that of its positive.

    One anchor is a batch of its own, so its loss is log(1 + exp(difference)). In the batches of the
    recorded losses that term is too small to be seen.
    """
    method = MethodConfig(temperature=case["temperature"], **options)
    z = sentences(case["B"], case["S"], case["d"]).detach()[anchor : anchor + 1]
    return float(Objective(method)(*z.unbind(1)).loss.expm1().log())


@pytest.mark.parametrize(
    "case", [c for c in GOLDEN["cases"] if c["S"] == 3], ids=lambda c: c["case"]
)
def test_golden_logit_of_the_own_hard_negative(case):
    """Checklist 11: the recorded logits hold the weight; without it the comparison fails."""
    row, weight = case["outputs"]["logits_row0_first6"], case["hard_negative_logit_weight"]
    expected = row[case["B"]] - row[0]
    assert alone(case, hard_negative_logit=weight) == pytest.approx(expected, rel=1e-6)
    for other in {0.0, -weight, weight + 0.1} - {weight}:
        assert alone(case, hard_negative_logit=other) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("hard", [False, True])
def test_rows_are_classified_among_all_columns(hard):
    """Checklist 3: (N, N) or (N, 2N) logits, labels arange(N), the positive in the denominator."""
    z_1, z_2, z_3 = vectors()
    extra = (z_3,) if hard else ()
    out = Objective(MethodConfig())(z_1, z_2, *extra)
    logits = dense_logits(z_1, z_2, *extra)
    assert logits.shape == (5, 10 if hard else 5)
    want = F.cross_entropy(logits, torch.arange(5), reduction="none")
    torch.testing.assert_close(out.per_sample, want)
    torch.testing.assert_close(out.loss, want.mean())
    without_positive = torch.logsumexp(logits.fill_diagonal_(-torch.inf), 1) - logits.diagonal()
    assert not torch.allclose(out.per_sample, without_positive)


def test_hard_negative_logit_touches_the_own_hard_negative_only():
    """Checklist 4: the weight acts on the right block's diagonal; 0 is plain InfoNCE."""
    z_1, z_2, z_3 = vectors()
    plain = Objective(MethodConfig())(z_1, z_2, z_3).loss
    weighted = Objective(MethodConfig(hard_negative_logit=0.7))(z_1, z_2, z_3).loss
    labels = torch.arange(5)
    torch.testing.assert_close(plain, F.cross_entropy(dense_logits(z_1, z_2, z_3), labels))
    want = F.cross_entropy(dense_logits(z_1, z_2, z_3, hard_logit=0.7), labels)
    torch.testing.assert_close(weighted, want)
    whole_block = dense_logits(z_1, z_2, z_3)
    whole_block[:, 5:] += 0.7
    assert not torch.isclose(weighted, F.cross_entropy(whole_block, labels))


def test_temperature_is_fixed():
    """Checklist 6: tau is 0.05 by default and nothing in the objective is learned."""
    assert MethodConfig().temperature == 0.05
    assert not list(Objective(MethodConfig()).parameters())
    with pytest.raises(UserError, match="temperature must be > 0"):
        load(Config, "simcse", "smoke", ["method.temperature=0"])
