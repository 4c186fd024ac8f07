"""HSIC, squared correlation and vCLUB against slow definitions, and what they tell apart."""

import pytest
import torch

from projects.sepclr.club import ClubEstimator
from projects.sepclr.independence import (
    club_bound,
    gaussian_nll,
    hsic,
    squared_correlation,
)


def codes(rows=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(rows, 2, generator=generator, dtype=torch.float64)


def test_hsic_is_the_trace_of_centred_kernels():
    x, y = codes()
    k, m = (torch.exp(-torch.cdist(z, z).square() / (2 * 0.7)) for z in (x, y))
    centre = torch.eye(12, dtype=torch.float64) - 1 / 12
    expected = torch.trace(k @ centre @ m @ centre) / 12**2
    torch.testing.assert_close(hsic(x, y, 0.7), expected)
    assert float(hsic(x, x)) > 1.2 * float(hsic(x, y))
    assert float(hsic(x, torch.ones_like(y))) == pytest.approx(0, abs=1e-12)


def test_squared_correlation_is_that_of_numpy():
    x, y = codes()
    matrix = torch.corrcoef(torch.cat([x, y], 1).T)[:3, 3:]
    torch.testing.assert_close(squared_correlation(x, y), matrix.square().mean(), rtol=1e-6, atol=0)
    assert float(squared_correlation(x, 2 * x[:, :1] - 1)) > 1 / 3 - 1e-6


def test_club_bound_is_the_explicit_mean_over_pairs():
    x, y = codes()
    mean, log_variance = x[:, :2], 0.3 * x[:, 1:]
    normal = torch.distributions.Normal(mean[:, None], (0.5 * log_variance).exp()[:, None])
    log_q = normal.log_prob(y[None]).sum(-1)  # (i, j): q(y_j | x_i)
    expected = (log_q.diagonal() - log_q.mean(1)).mean()
    torch.testing.assert_close(club_bound(mean, log_variance, y), expected)
    torch.testing.assert_close(gaussian_nll(mean, log_variance, y), -log_q.diagonal().mean())


def test_club_finds_dependence_and_parts_its_gradients():
    """The bound rises for y = f(x) and stays near 0 for independent codes."""
    bounds = {}
    for name in ("dependent", "independent"):
        torch.manual_seed(0)
        estimator, x = ClubEstimator(3, 3, 32), torch.randn(256, 3)
        y = x.tanh() if name == "dependent" else torch.randn(256, 3)
        optimizer = torch.optim.Adam(estimator.parameters(), 1e-2)
        for _ in range(100):
            optimizer.zero_grad()
            estimator(x, y)[1].backward()
            optimizer.step()
        x = torch.randn(256, 3)
        y = x.tanh() if name == "dependent" else torch.randn(256, 3)
        bounds[name] = float(estimator(x, y)[0])
    assert bounds["dependent"] > 1 > 0.5 > (bounds["independent"])
    x, y = x.requires_grad_(), y.requires_grad_()
    estimator.zero_grad()
    bound, nll = estimator(x, y)
    assert torch.autograd.grad(nll, [x, y], retain_graph=True, allow_unused=True) == (None, None)
    bound.backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in estimator.parameters())


@pytest.mark.parametrize("penalty", [hsic, squared_correlation])
@pytest.mark.parametrize("shapes", [((4, 2), (3, 2)), ((1, 2), (1, 2)), ((4,), (4, 2))])
def test_codes_that_do_not_belong_together_are_refused(penalty, shapes):
    with pytest.raises(ValueError, match="same B >= 2 rows"):
        penalty(*(torch.zeros(shape) for shape in shapes))
