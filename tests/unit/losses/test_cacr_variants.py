"""The RBF repulsion and the queue form, against their sums spelt out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses.cacr import CACRLoss
from common.losses.functional.cacr import cacr, rbf_repulsion
from common.losses.functional.cacr_queue import cacr_queue

TAU, T = 0.9, 2.0


def views(count: int, rows: int = 6, dim: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, rows, dim, generator=generator, dtype=torch.float64)
    return F.normalize(z, dim=-1)


def slow_rbf(x: Tensor, y: Tensor, weighted: bool, detach: bool) -> Tensor:
    distance = (x[:, None] - y).square().sum(-1)
    own = torch.eye(len(x), dtype=torch.bool)
    seen = distance.detach() if detach else distance
    logits = -TAU * seen if weighted else torch.zeros_like(distance)
    weight = logits.masked_fill(own, -torch.inf).softmax(1)
    return (weight * (-T * distance).exp()).sum(1)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_rbf_repulsion_is_its_sum(weighted, detach):
    """Values and gradients, weights fixed or not."""
    left, right = (views(2).requires_grad_() for _ in range(2))
    options = {"weighted": weighted, "detach_weights": detach}
    actual = rbf_repulsion(left[0], left[1], TAU, T, **options).cost
    expected = slow_rbf(right[0], right[1], weighted, detach)
    torch.testing.assert_close(actual, expected)
    actual.log().sum().backward()
    expected.log().sum().backward()
    torch.testing.assert_close(left.grad, right.grad)


def test_fixed_rbf_weights_change_the_gradient():
    gradients = []
    for detach in (True, False):
        z = views(2).requires_grad_()
        rbf_repulsion(z[0], z[1], TAU, T, detach_weights=detach).cost.sum().backward()
        gradients.append(z.grad)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


@pytest.mark.parametrize("weighting", ["full", "without_w2"])
def test_rbf_loss_is_the_log_of_the_batch_mean_over_pairs(weighting):
    z = views(3)
    weighted = weighting == "full"
    pairs = [(0, 1), (0, 2), (1, 2)]
    terms = [slow_rbf(z[x], z[y], weighted, False).mean().log() for x, y in pairs]
    loss = CACRLoss(tau_negative=TAU, beta=0.5, weighting=weighting, cost="rbf", rbf_t=T)
    actual = loss.terms(z).repulsion
    torch.testing.assert_close(actual, (0.5 * torch.stack(terms).mean()).expand(6))
    assert actual.mean() < 0


def test_weighted_rbf_cost_is_larger_than_the_uniform_one():
    """Near negatives weigh more, and their kernel value is the larger."""
    z = views(2)
    weighted = rbf_repulsion(z[0], z[1], TAU, T).cost
    assert (weighted > rbf_repulsion(z[0], z[1], TAU, T, weighted=False).cost).all()


def test_queue_entropies_are_those_of_one_softmax_over_queue_and_batch():
    q, k, queue = views(2), views(2, seed=1), views(1, rows=9, seed=2)[0]
    terms = cacr_queue(q, k, queue, 1.0, 2.0)
    entropies = []
    for x in range(2):
        near = (2 - 2 * q[x] @ q[x].T)[~torch.eye(6, dtype=torch.bool)].view(6, 5)
        weight = (-2.0 * torch.cat([2 - 2 * q[x] @ queue.T, near], 1)).softmax(1)
        entropies.append(torch.special.entr(weight).sum(1))
    torch.testing.assert_close(terms.negative_entropy, torch.stack(entropies).mean(0))
    torch.testing.assert_close(terms.positive_entropy, torch.zeros(6).double())  # K = 1


def test_queue_and_keys_receive_no_gradient():
    q, k, queue = views(3), views(3, seed=1), views(1, rows=9, seed=2)[0]
    leaves = [x.requires_grad_() for x in (q, k, queue)]
    terms = cacr_queue(*leaves)
    (terms.attraction + terms.repulsion).sum().backward()
    assert q.grad is not None
    assert k.grad is None
    assert queue.grad is None


def test_what_does_not_fit_is_refused():
    z = views(2)
    with pytest.raises(ValueError, match="queries and keys have shapes"):
        cacr_queue(z, z[:, :3], z[0])
    with pytest.raises(ValueError, match="cost must be one of"):
        cacr(z, cost="l2")
    with pytest.raises(ValueError, match="Euclidean cost only"):
        cacr(z, cost="rbf", tau_plus=0.1)
    with pytest.raises(ValueError, match="rbf_t > 0"):
        CACRLoss(cost="rbf", rbf_t=0.0)
    with pytest.raises(ValueError, match="needs cost='euclidean'"):
        CACRLoss(cost="rbf", tau_plus=0.1)
