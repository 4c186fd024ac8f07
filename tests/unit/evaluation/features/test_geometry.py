"""Alignment, uniformity and effective dimensions against their definitions."""

import math

import pytest
import torch

from common.evaluation.features.geometry import (
    alignment,
    effective_rank,
    geometry_metrics,
    mean_cosine,
    participation_ratio,
    rankme,
    uniformity,
)


def embeddings(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def test_alignment_by_hand():
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[-1.0, 0.0], [0.0, 5.0]])
    assert alignment(x, y) == pytest.approx((4 + 0) / 2)
    assert alignment(x, y, alpha=1) == pytest.approx((2 + 0) / 2)
    assert alignment(x, x) == 0.0


@pytest.mark.parametrize("chunk_size", [1, 7, 20, 4096])
def test_uniformity_equals_pdist(chunk_size):
    x = embeddings(41, 5)
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    expected = torch.pdist(unit).square().mul(-2).exp().mean().log().item()
    assert uniformity(x, chunk_size=chunk_size) == pytest.approx(expected, rel=1e-10)


def test_uniformity_extremes():
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-12)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(opposite) == pytest.approx(-8.0)
    assert uniformity(opposite, t=3.0) == pytest.approx(-12.0)
    assert uniformity(embeddings(200, 32)) < uniformity(embeddings(200, 2))


def test_mean_cosine_equals_all_pairs():
    x = embeddings(17, 4) + 1
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    off = ~torch.eye(17, dtype=torch.bool)
    assert mean_cosine(x) == pytest.approx((unit @ unit.T)[off].mean().item())
    assert mean_cosine(torch.ones(4, 3)) == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(30, 6), (6, 30)])
def test_effective_rank_and_participation_ratio_equal_their_definitions(shape):
    x = embeddings(*shape)
    for center in (True, False):
        centred = x.double() - x.double().mean(dim=0) if center else x.double()
        sigma = torch.linalg.svdvals(centred)
        p = sigma / sigma.sum()
        p = p[p > 1e-12]
        expected = math.exp(-(p * p.log()).sum())
        assert effective_rank(x, center=center) == pytest.approx(expected, rel=1e-6)
        eigenvalues = sigma.square()
        expected = eigenvalues.sum() ** 2 / eigenvalues.square().sum()
        assert participation_ratio(x, center=center) == pytest.approx(expected.item(), rel=1e-6)


def test_known_dimensions():
    axes = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(axes) == pytest.approx(5.0)
    assert participation_ratio(axes) == pytest.approx(5.0)
    line = torch.linspace(-1, 1, 50)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-4)
    assert participation_ratio(line) == pytest.approx(1.0)
    assert effective_rank(line + 100) == pytest.approx(1.0, abs=1e-3)
    assert effective_rank(line + torch.tensor([100.0, 0, 0]), center=False) > 1.0001


def test_collapsed_embeddings_have_rank_zero():
    row = embeddings(1, 7).double() / 3
    assert (row.expand(37, -1) - row.expand(37, -1).mean(dim=0)).any()  # rounding noise exists
    for constant in (row.expand(37, -1), torch.full((40, 7), 0.1), torch.zeros(40, 7)):
        assert effective_rank(constant) == 0.0
        assert participation_ratio(constant) == 0.0
    assert effective_rank(torch.full((40, 7), 0.1), center=False) == pytest.approx(1.0)
    assert rankme(torch.zeros(4, 3)) == 0.0


def test_rankme_equals_its_formula():
    x = embeddings(20, 6)
    x[:, 5] = x[:, 4]  # one singular value is zero
    sigma = torch.linalg.svdvals(x.double())
    p = sigma / sigma.sum() + 1e-7
    assert rankme(x) == pytest.approx(math.exp(-(p * p.log()).sum()), rel=1e-6)
    assert rankme(x) < rankme(embeddings(20, 6))


def test_measures_ignore_rotation_and_scale():
    x = embeddings(30, 5)
    rotation = torch.linalg.qr(embeddings(5, 5, seed=1)).Q
    before, after = geometry_metrics(x), geometry_metrics(3 * x @ rotation)
    assert before == pytest.approx(after, rel=1e-4)


def test_refusals():
    with pytest.raises(ValueError, match="two embeddings"):
        uniformity(torch.ones(1, 2))
    with pytest.raises(ValueError, match="two embeddings"):
        mean_cosine(torch.ones(1, 2))
    with pytest.raises(ValueError, match="equal shapes"):
        alignment(torch.ones(2, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="diverged"):
        effective_rank(torch.full((2, 2), float("inf")))
