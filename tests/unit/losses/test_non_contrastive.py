"""Losses without negatives: equations, invariances, errors."""

import pytest
import torch
from torch.nn import functional as F

from common.losses.auxiliary.vicreg import vicreg_terms
from common.losses.functional.non_contrastive import (
    barlow_twins,
    negative_cosine,
    sinkhorn,
    swapped_prediction,
)


def rows(count, dim, seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=g, dtype=torch.float64).requires_grad_()


def test_negative_cosine_is_the_squared_distance_and_stops_at_the_target():
    p, t = rows(5, 3, 0), rows(5, 3, 1)
    loss = negative_cosine(p, t)
    expected = (F.normalize(p, dim=1) - F.normalize(t, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert t.grad is None
    assert p.grad.any()


def test_barlow_twins_against_loops():
    x, y = rows(4, 3, 0), rows(4, 3, 1)
    total = 0.0
    for i in range(3):
        for j in range(3):
            c = (x[:, i] * y[:, j]).mean()
            total = total + ((c - 1) ** 2 if i == j else 0.3 * c**2)
    torch.testing.assert_close(barlow_twins(x, y, off_diagonal=0.3), total)


def test_sinkhorn_against_plain_normalisation():
    scores = rows(6, 4, 0).detach().clamp(-1, 1)
    q = (scores / 0.1).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 4
        q = q / q.sum(0, keepdim=True) / 6
    torch.testing.assert_close(sinkhorn(scores, epsilon=0.1), (q * 6).T)


def test_sinkhorn_survives_scores_whose_exponential_overflows():
    actual = sinkhorn(torch.tensor([[900.0, 0.0], [0.0, 900.0]]), epsilon=1.0)
    torch.testing.assert_close(actual, torch.eye(2))


def test_swapped_prediction_is_a_cross_entropy_without_gradient_to_the_assignment():
    q, s = torch.softmax(rows(5, 4, 0), 1), rows(5, 4, 1)
    loss = swapped_prediction(q, s, 3.0)
    torch.testing.assert_close(loss, F.cross_entropy(3 * s, q.detach()))
    assert torch.autograd.grad(loss, q, allow_unused=True) == (None,)


def test_errors():
    with pytest.raises(ValueError, match="prediction, target"):
        negative_cosine(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="code_1, code_2"):
        barlow_twins(torch.zeros(2, 3), torch.zeros(2, 4))
    for options in ({"epsilon": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="epsilon > 0"):
            sinkhorn(torch.zeros(2, 2), **options)


def test_terms_of_vicreg_are_exact_under_autocast():
    """A covariance of bfloat16 products would be off by per cents."""
    x, y = rows(64, 8, 0).detach().float(), rows(64, 8, 1).detach().float()
    expected = vicreg_terms(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = x.T @ x
        actual = vicreg_terms(x, y)
    assert rounded.dtype == torch.bfloat16  # what autocast does outside of the loss
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_codes_are_summed_in_float32(dtype):
    """Thousands of squared correlations overflow float16; assignments would not sum to 1."""
    codes = (rows(64, 1, 0) + 0.1 * rows(64, 1024, 1)).detach().to(dtype)
    expected = barlow_twins(codes.float(), codes.float(), off_diagonal=1.0)
    assert expected > 65504
    torch.testing.assert_close(barlow_twins(codes, codes, off_diagonal=1.0), expected)
    scores = rows(32, 16, 2).detach().clamp(-1, 1).to(dtype)
    assignment = sinkhorn(scores)
    torch.testing.assert_close(assignment, sinkhorn(scores.float()))
    actual = swapped_prediction(assignment, scores, 10.0)
    torch.testing.assert_close(actual, swapped_prediction(assignment, scores.float(), 10.0))
    actual = negative_cosine(codes, codes.flip(0))
    torch.testing.assert_close(actual, negative_cosine(codes.float(), codes.flip(0).float()))
