"""Whitening and independent components of finished embeddings."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.evaluation.features.geometry import mean_cosine, participation_ratio
from common.evaluation.features.postprocessing import fit_whitening
from projects.defsent_plus.ica import fit_ica

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/defsent_plus.json").read_text("utf-8"))


def anisotropic(rows: int = 400, dim: int = 6, seed: int = 0) -> Tensor:
    """Correlated embeddings with a large common direction."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator) @ torch.randn(dim, dim, generator=generator)
    return x + 10


@pytest.mark.parametrize("method", ["pca", "zca", "cholesky"])
def test_fitted_embeddings_are_white_and_new_ones_pass_the_same_map(method):
    x = anisotropic()
    transform = fit_whitening(x, method=method)
    y = transform(x)
    assert float(y.mean(0).abs().max()) < 1e-5
    torch.testing.assert_close(y.T @ y / len(y), torch.eye(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(transform(x[:3]), y[:3])
    assert mean_cosine(x) > 0.8 > 0.05 > abs(mean_cosine(y))
    assert participation_ratio(y) > 5.9 > participation_ratio(x)


def test_pca_keeps_the_directions_of_largest_variance():
    """As BERT-whitening: the first k columns of U diag(l)^-1/2."""
    x = anisotropic().double()
    centred = x - x.mean(0)
    _, scale, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T * len(x) ** 0.5 / scale[:2]
    y = fit_whitening(x, dim=2)(x)
    assert y.shape == (400, 2)
    torch.testing.assert_close(y.abs(), expected.abs())
    torch.testing.assert_close(y, fit_whitening(x)(x)[:, :2])


def test_zca_and_pca_give_the_same_cosines():
    x = anisotropic()
    zca, pca = (F.normalize(fit_whitening(x, method=m)(x), dim=1) for m in ("zca", "pca"))
    torch.testing.assert_close(zca @ zca.T, pca @ pca.T, rtol=0, atol=1e-4)


def test_too_few_texts_need_a_smaller_dimension_or_a_ridge():
    x = anisotropic(rows=5)
    with pytest.raises(UserError, match="vary in 4 directions only, which is less than the 6"):
        fit_whitening(x)
    assert fit_whitening(x, dim=4)(x).shape == (5, 4)
    assert torch.isfinite(fit_whitening(x, ridge=1e-5)(x)).all()
    with pytest.raises(UserError, match="fewer than 6 components"):
        fit_ica(x)


@pytest.mark.parametrize("case", GOLDEN["ica_cases"], ids=lambda c: f"d{c['d']}")
def test_independent_components_match_the_recorded_ones(case):
    """Row norms and sorted absolute values do not depend on sign and order."""
    n, d, expected = case["n"], case["d"], case["outputs"]
    i, k = torch.arange(1, n + 1).double()[:, None], torch.arange(1, d + 1).double()
    u = ((i * 12.9898 + k * 78.233).sin() * 43758.5453).abs().frac() - 0.5
    sources = -u.sign() * torch.log(1 - 2 * u.abs() + 1e-9)
    mixing = torch.cos(k[:, None] * (k - 0.5)) + torch.eye(d)
    x = (sources @ mixing + 3).float()
    transform = fit_ica(x, scale=100.0, seed=case["seed"], max_iter=case["max_iter"])
    y = transform(x)
    assert transform.converged
    assert mean_cosine(x) == pytest.approx(expected["mean_cosine_before"], rel=1e-5)
    assert mean_cosine(y) == pytest.approx(expected["mean_cosine_after"], rel=1e-3)
    close = {"rtol": 1e-4, "atol": 0.0}
    torch.testing.assert_close(y.std(0, correction=0), torch.full((d,), 100.0), **close)
    norms = torch.tensor(expected["row_norms_first3"])
    torch.testing.assert_close(y[:3].norm(dim=1), norms, **close)
    row = torch.tensor(expected["abs_row0_sorted"])
    torch.testing.assert_close(y[0].abs().sort().values[: len(row)], row, rtol=1e-3, atol=0.0)
    correlation = torch.corrcoef(y.T.double()) - torch.eye(d).double()
    assert float(correlation.abs().max()) < 1e-5


def test_components_separate_sources_that_whitening_only_decorrelates():
    generator = torch.Generator().manual_seed(1)
    sources = torch.rand(2000, 2, generator=generator) - 0.5
    mixed = sources @ torch.tensor([[1.0, 0.6], [0.2, 1.0]])

    def best_match(y: Tensor) -> float:
        actual = torch.corrcoef(torch.cat([sources, y], 1).T)[:2, 2:].abs()
        return float(actual.max(1).values.min())

    assert best_match(fit_ica(mixed)(mixed)) > 0.99
    assert best_match(fit_whitening(mixed)(mixed)) < 0.95
    assert fit_ica(mixed, dim=1)(mixed).shape == (2000, 1)


def test_a_fit_that_stops_early_says_so():
    x = anisotropic(rows=200)
    assert not fit_ica(x, max_iter=1, tol=1e-12).converged


def test_errors():
    x = anisotropic()
    with pytest.raises(ValueError, match="dim is for method='pca'"):
        fit_whitening(x, method="zca", dim=2)
    with pytest.raises(ValueError, match=r"dim must lie in \[1, 6\]"):
        fit_whitening(x, dim=7)
    with pytest.raises(ValueError, match="fitted in 6 dimensions"):
        fit_whitening(x)(x[:, :3])
    with pytest.raises(ValueError, match="scale must be > 0"):
        fit_ica(x, scale=0.0)
