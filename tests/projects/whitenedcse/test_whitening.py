"""Batch whitening: white groups, shuffles, gradients, the ridge, two ranks."""

import pytest
import torch
from torch import Tensor

from common.config import UserError
from common.encoders.batch_whitening import whitening_matrix
from projects.whitenedcse.whitening import Whitening
from tests.projects.whitenedcse.workers import correlated, synchronised

METHODS = ("zca", "pca", "cholesky")


def covariance(x: Tensor) -> Tensor:
    return x.mT @ x / x.shape[-2]


def relation(x: Tensor, method: str, groups: int = 1, **options) -> Tensor:
    return Whitening(x.shape[-1], groups, method=method, ridge=0.0, **options)(x)


@pytest.mark.parametrize("method", METHODS)
def test_one_group_becomes_white_per_block(method):
    y = relation(correlated(), method)
    assert float(y.mean(1).abs().max()) < 1e-10
    torch.testing.assert_close(covariance(y), torch.eye(8).double().expand(2, 8, 8))


def test_methods_are_rotations_of_each_other_with_their_own_marks():
    """ZCA is nearest to the input, PCA orders by variance, Cholesky is triangular."""
    x = correlated(blocks=1)[0]
    centred = x - x.mean(0)
    actual = {m: relation(x, m) for m in METHODS}
    for y in actual.values():
        torch.testing.assert_close(y @ y.T, actual["zca"] @ actual["zca"].T)
    assert not torch.allclose(actual["zca"], actual["pca"])
    scale = centred.std(0, correction=0)
    distance = {m: float((y - centred / scale).square().sum()) for m, y in actual.items()}
    assert distance["zca"] < min(distance["pca"], distance["cholesky"])
    weight = whitening_matrix(covariance(centred), "cholesky")
    assert torch.equal(weight, weight.triu())
    axes = whitening_matrix(covariance(centred), "pca")
    size = axes.square().sum(0)  # 1 / eigenvalue
    assert torch.equal(size, size.sort().values)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_groups_are_white_inside_and_correlated_between():
    y = relation(correlated(), "zca", groups=4)
    actual = covariance(y)
    inside = torch.block_diag(*[torch.ones(2, 2)] * 4).bool()
    torch.testing.assert_close(actual[:, inside], torch.eye(8).double()[inside].expand(2, -1))
    assert float(actual[:, ~inside].abs().max()) > 0.1


def test_blocks_have_statistics_of_their_own():
    x = correlated()
    apart = torch.stack([relation(block, "zca") for block in x])
    torch.testing.assert_close(relation(x, "zca"), apart)
    together = relation(x.flatten(0, 1), "zca").view_as(x)
    assert not torch.allclose(together, apart)


def test_permutation_moves_the_groups_and_is_undone():
    """Whitening permuted channels by hand and putting them back gives the same."""
    x = correlated(blocks=1)[0]
    permutation = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    layer = Whitening(8, 4, ridge=0.0)
    by_hand = torch.empty_like(x)
    by_hand[:, permutation] = layer(x[:, permutation])
    torch.testing.assert_close(layer(x, permutation), by_hand)
    assert not torch.allclose(layer(x), by_hand)
    each = torch.stack([permutation, permutation.flip(0)])
    both = layer(torch.stack([x, x]), each)
    torch.testing.assert_close(both[0], by_hand)
    torch.testing.assert_close(both[1], layer(x, each[1]))


def test_shuffling_draws_anew_for_every_block_and_call():
    x = correlated(blocks=1).expand(2, -1, -1)
    layer = Whitening(8, 4, shuffle=True)
    torch.manual_seed(0)
    first, second = layer(x), layer(x)
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, second)
    torch.manual_seed(0)
    assert torch.equal(layer(x), first)
    plain = Whitening(8, 4)
    assert torch.equal(plain(x), plain(x))


def test_one_group_draws_nothing():
    state = torch.get_rng_state()
    Whitening(8, 1, shuffle=True)(correlated())
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_mode_leaves_the_input_alone():
    x = correlated()
    assert Whitening(8, 4, shuffle=True).eval()(x) is x
    assert Whitening(8, 4).eval()(x[0, :1]) is not None  # one row is not an error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("detach", [True, False])
def test_gradient_with_and_without_the_whitening_matrix(method, detach):
    """Detached: that of the product with a constant matrix; else that of finite differences."""
    x = correlated(rows=6, dim=4, blocks=1)[0].requires_grad_()
    layer = Whitening(4, 2, method=method, detach=detach, ridge=0.0)
    if not detach:
        assert torch.autograd.gradcheck(lambda v: layer(v).sin(), x)
        return
    layer(x).sin().sum().backward()
    grouped = x.detach().view(6, 2, 2).transpose(0, 1)
    weight = whitening_matrix(covariance(grouped - grouped.mean(1, keepdim=True)), method)
    again = x.detach().clone().requires_grad_()
    parts = again.view(6, 2, 2).transpose(0, 1)
    ((parts - parts.mean(1, keepdim=True)) @ weight).sin().sum().backward()
    torch.testing.assert_close(x.grad, again.grad)


def test_gradients_of_the_two_options_differ():
    actual = []
    for detach in (True, False):
        x = correlated().requires_grad_()
        relation(x, "zca", groups=2, detach=detach).sin().sum().backward()
        actual.append(x.grad)
    assert not torch.allclose(*actual)


def test_ridge_acts_on_degenerate_groups_only():
    x = correlated(dim=4, blocks=1)[0]
    x[:, 3] = 2.0  # constant channel, in the second of two groups
    exact, ridged = Whitening(4, 2, ridge=0.0), Whitening(4, 2, ridge=1e-5)
    y = ridged(x)
    assert torch.isfinite(y).all()
    assert torch.equal(y[:, :2], exact(x)[:, :2])
    assert not torch.isfinite(exact(x)[:, 2:]).all()
    constant = Whitening(4, 2)(torch.ones(8, 4))
    assert torch.equal(constant, torch.zeros(8, 4))


@pytest.mark.parametrize("method", METHODS)
def test_ridge_does_not_depend_on_the_scale(method):
    x = correlated(dim=4, blocks=1)[0]
    x[:, 3] = 2 * x[:, 2]
    layer = Whitening(4, method=method)
    torch.testing.assert_close(layer(1000 * x), layer(x), rtol=1e-5, atol=1e-5)


def test_runs_in_float32_under_autocast():
    x = correlated().float()
    layer = Whitening(8, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer.float()(x))
        assert layer(x.bfloat16()).dtype == torch.float32
    y = layer(x.bfloat16())
    inside = torch.block_diag(*[torch.ones(4, 4)] * 2).bool()
    torch.testing.assert_close(
        covariance(y)[:, inside], torch.eye(8)[inside].expand(2, -1), rtol=0, atol=1e-3
    )


def test_errors():
    with pytest.raises(UserError, match="more than 4 rows in a batch, got 4"):
        Whitening(8, 2)(torch.randn(4, 8))
    with pytest.raises(ValueError, match="must divide 8, got 3"):
        Whitening(8, 3)
    with pytest.raises(ValueError, match="method must be one of"):
        Whitening(8, method="svd")
    with pytest.raises(ValueError, match="ridge must be >= 0"):
        Whitening(8, ridge=-1)
    with pytest.raises(ValueError, match=r"expected \(N, 8\)"):
        Whitening(8)(torch.randn(9, 4))


def test_synchronised_statistics_equal_those_of_the_whole_batch(two_ranks):
    x = correlated().requires_grad_()
    torch.manual_seed(0)
    y = Whitening(8, 2, shuffle=True, detach=False)(x)
    y.sin().sum().backward()
    (y_0, g_0), (y_1, g_1) = two_ranks.run(synchronised, sync=True)
    torch.testing.assert_close(torch.cat([y_0, y_1], 1), y.detach())
    torch.testing.assert_close(torch.cat([g_0, g_1], 1), x.grad)
    apart = torch.cat([y for y, _ in two_ranks.run(synchronised, sync=False)], 1)
    assert not torch.allclose(apart, y)
