"""Standardisation of a probe's features in blocks, and scikit-learn's C."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from common.evaluation.features import linear_probe
from common.evaluation.features.linear_probe import fit_logistic_regression, l2_of


@pytest.mark.parametrize("rows", [7, 64, 1000])
def test_moments_of_blocks_are_those_of_all_rows(monkeypatch, rows):
    monkeypatch.setattr(linear_probe, "_MOMENT_ROWS", rows)
    x = torch.randn(200, 5) * torch.tensor([1.0, 1e-3, 50.0, 1.0, 0.0]) + torch.arange(5) * 100
    mean, std = linear_probe._moments(x, True)
    torch.testing.assert_close(mean, x.double().mean(0).float(), rtol=1e-6, atol=0)
    expected = x.double().std(0, correction=0).float()
    expected[4] = 1.0  # constant
    torch.testing.assert_close(std, expected, rtol=1e-5, atol=0)


def test_one_block_is_bit_equal():
    x = torch.randn(1000, 8) + 3
    mean, std = linear_probe._moments(x, True)
    assert torch.equal(mean, x.double().mean(0).float())
    assert torch.equal(std, x.double().std(0, correction=0).float())


@pytest.mark.parametrize("classes", [2, 3])
def test_l2_of_is_the_strength_of_scikit_learn(classes):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, classes, 60)
    known = LogisticRegression(C=0.3, tol=1e-8, max_iter=2000).fit(x, y)
    fit = fit_logistic_regression(
        torch.from_numpy(x), torch.from_numpy(y), l2_of(0.3, 60, classes), classes, tolerance=1e-9
    )
    actual = torch.softmax(torch.from_numpy(x) @ fit[0].T + fit[1], 1).numpy()
    np.testing.assert_allclose(actual, known.predict_proba(x), atol=1e-5)
