"""Each loss against a slow version of its equation: values and gradients, both torch back ends."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses.align_uniform import AlignUniformLoss
from common.losses.cacr import CACRLoss
from common.losses.functional.cacr import attraction, cacr_momentum, repulsion
from common.losses.functional.geometry import (
    gaussian_log_sum,
    joint_entropy,
    pairwise_squared_distance,
    uniformity,
)
from common.losses.functional.masks import guide_mask, id_mask
from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.margin import MarginRankingLoss, TripletLoss
from common.losses.multi_positive import HydraLoss, OneToKLoss, SupConLoss
from common.losses.soft import CWCLLoss, DistillationLoss
from common.losses.two_view import DCLLoss, DebiasedLoss, NTXentLoss
from tests.unit.losses import slow

N, D, SCALE = 7, 5, 6.0
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 3])  # class 3 has no partner
PARTNER = torch.tensor([1, 0, 0, 1, 3, 2, 3])


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


GATE, FEATURES, QUEUE = normal(N, D, seed=7).sigmoid(), normal(N, 3, seed=8), normal(4, D, seed=9)

Pair = Callable[[Tensor, Tensor], Tensor]

# name -> (module under test, slow version), both functions of two raw embedding matrices
CASES: dict[str, tuple[Callable[..., Pair], Pair]] = {
    "clip": (
        lambda **o: lambda x, y: ClipLoss(**o)(x, y, SCALE).loss,
        lambda x, y: slow.clip(unit(x), unit(y), SCALE),
    ),
    "info_nce": (
        lambda **o: lambda x, y: InfoNCELoss(**o)(x, y, SCALE).loss,
        lambda x, y: slow.info_nce(unit(x), unit(y), SCALE),
    ),
    "info_nce_hard": (
        lambda **o: lambda x, y: InfoNCELoss(**o)(x, y, SCALE, hard_negatives=x + y).loss,
        lambda x, y: slow.info_nce(unit(x), unit(y), SCALE, unit(x + y)),
    ),
    "info_nce_queue": (
        lambda **o: lambda x, y: InfoNCELoss(**o)(x, y, SCALE, queue=QUEUE).loss,
        lambda x, y: slow.info_nce(unit(x), unit(y), SCALE, unit(QUEUE)),
    ),
    "nt_xent": (
        lambda **o: lambda x, y: NTXentLoss(**o)(x, y, SCALE).loss,
        lambda x, y: slow.nt_xent(unit(x), unit(y), SCALE),
    ),
    "dcl": (
        lambda **o: lambda x, y: DCLLoss(**o)(x, y, SCALE).loss,
        lambda x, y: slow.dcl(unit(x), unit(y), SCALE),
    ),
    "debiased": (
        lambda **o: lambda x, y: DebiasedLoss(0.1, **o)(x, y, 2.0).loss,
        lambda x, y: slow.debiased(unit(x), unit(y), 2.0, 0.1),
    ),
    "debiased_floor": (  # most rows fall to the floor
        lambda **o: lambda x, y: DebiasedLoss(0.6, **o)(x, x + 0.3 * y, 4.0).loss,
        lambda x, y: slow.debiased(unit(x), unit(x + 0.3 * y), 4.0, 0.6),
    ),
    "hard_negative_weights": (
        lambda **o: lambda x, y: DebiasedLoss(0.1, 0.7, **o)(x, y, 2.0).loss,
        lambda x, y: slow.debiased(unit(x), unit(y), 2.0, 0.1, 0.7),
    ),
    "sup_con": (
        lambda **o: lambda x, y: SupConLoss(**o)(x + y, LABELS, SCALE).loss,
        lambda x, y: slow.sup_con(unit(x + y), LABELS, SCALE),
    ),
    "sup_con_in": (
        lambda **o: lambda x, y: SupConLoss("in", **o)(x + y, LABELS, SCALE).loss,
        lambda x, y: slow.sup_con(unit(x + y), LABELS, SCALE, "in"),
    ),
    "siglip": (
        lambda **o: lambda x, y: SigLipLoss(**o)(x, y, SCALE, -2.0).loss,
        lambda x, y: slow.siglip(unit(x), unit(y), SCALE, -2.0),
    ),
    "one_to_k": (
        lambda **o: lambda x, y: OneToKLoss(2, **o)(x, torch.cat([y, 2 * x - y]), SCALE).loss,
        lambda x, y: slow.one_to_k(unit(x), unit(torch.cat([y, 2 * x - y])), SCALE, 2, True),
    ),
    "one_to_k_alone": (
        lambda **o: (
            lambda x, y: OneToKLoss(2, False, **o)(x, torch.cat([y, 2 * x - y]), SCALE).loss
        ),
        lambda x, y: slow.one_to_k(unit(x), unit(torch.cat([y, 2 * x - y])), SCALE, 2, False),
    ),
    "hydra": (
        lambda **o: lambda x, y: HydraLoss(**o)(x + y, GATE, LABELS, PARTNER, SCALE).loss,
        lambda x, y: slow.hydra(unit(x + y), GATE, LABELS, PARTNER, SCALE, True),
    ),
    "hydra_with_self": (
        lambda **o: lambda x, y: HydraLoss(False, **o)(x + y, GATE, LABELS, PARTNER, SCALE).loss,
        lambda x, y: slow.hydra(unit(x + y), GATE, LABELS, PARTNER, SCALE, False),
    ),
    "cwcl": (
        lambda **o: lambda x, y: CWCLLoss(**o)(x, y, SCALE, FEATURES).loss,
        lambda x, y: (
            slow.cwcl(unit(x), unit(y), unit(FEATURES), SCALE)
            + slow.info_nce(unit(y), unit(x), SCALE)
        ),
    ),
    "distillation": (
        lambda **o: (
            lambda x, y: DistillationLoss(**o)(x, y, FEATURES, FEATURES + 1, SCALE, 3.0).loss
        ),
        lambda x, y: slow.distillation(
            unit(x), unit(y), unit(FEATURES), unit(FEATURES + 1), SCALE, 3.0
        ),
    ),
    "cacr": (
        lambda **o: lambda x, y: CACRLoss(1.5, 0.9, **o)(torch.stack([x, y, x - y])).loss,
        lambda x, y: slow.cacr(unit(torch.stack([x, y, x - y])), 1.5, 0.9),
    ),
}


def value_and_gradients(loss: Pair, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = loss(x, y)
    return value.detach(), *torch.autograd.grad(value, (x, y), allow_unused=True)


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_slow_equation(name, backend):
    module, reference = CASES[name]
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    actual = value_and_gradients(module(backend=backend), x, y)
    expected = value_and_gradients(reference, x, y)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_comparison_can_fail(name):
    module, reference = CASES[name]
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    assert not torch.isclose(module()(x, y), reference(x.flip(0), x + 2 * y), rtol=1e-6)


def test_label_smoothing_equals_torch():
    q, k, hard, scale = normal(N, D, seed=1), normal(N, D, seed=2), normal(N, 2, D, seed=3), 4.0
    queue = normal(3, D, seed=4)
    columns = unit(torch.cat([k, hard.flatten(0, 1), queue]))
    logits, target = scale * unit(q) @ columns.T, torch.arange(N)
    actual = InfoNCELoss(label_smoothing=0.2)(q, k, scale, hard_negatives=hard, queue=queue).loss
    torch.testing.assert_close(actual, F.cross_entropy(logits, target, label_smoothing=0.2))
    both = scale * unit(q) @ unit(k).T
    expected = [F.cross_entropy(s, target, label_smoothing=0.3) for s in (both, both.T)]
    actual = ClipLoss(label_smoothing=0.3)(q, k, scale).loss
    torch.testing.assert_close(actual, 0.5 * (expected[0] + expected[1]))
    lone = torch.cat(
        [scale * (unit(q) * unit(k)).sum(1, keepdim=True), scale * unit(q) @ unit(queue).T], 1
    )
    actual = InfoNCELoss(in_batch=False, label_smoothing=0.1)(q, k, scale, queue=queue).loss
    expected = F.cross_entropy(lone, torch.zeros(N, dtype=torch.long), label_smoothing=0.1)
    torch.testing.assert_close(actual, expected)


def test_masks_drop_exactly_the_pairs_they_name():
    q, k, scale = unit(normal(N, D, seed=1)), unit(normal(N, D, seed=2)), 4.0
    hard = unit(normal(N, D, seed=3))
    ids, hard_ids = torch.tensor([0, 1, 0, 2, 3, 1, 4]), torch.tensor([0, 0, 1, 2, 9, 9, 4])
    logits = scale * q @ torch.cat([k, hard]).T
    same = ids[:, None] == torch.cat([ids, hard_ids])[None, :]
    same[torch.arange(N), torch.arange(N)] = False
    expected = F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(N))
    actual = InfoNCELoss()(q, k, scale, hard_negatives=hard, mask=id_mask(ids, hard_ids))
    torch.testing.assert_close(actual.loss, expected)

    u, v = unit(FEATURES), unit(FEATURES + normal(N, 3, seed=5))
    similar = u @ v.T > (u * v).sum(1, keepdim=True) - 0.1
    similar.fill_diagonal_(False)
    assert similar.any()
    expected = F.cross_entropy((scale * q @ k.T).masked_fill(similar, -torch.inf), torch.arange(N))
    actual = InfoNCELoss()(q, k, scale, mask=guide_mask(u, [v], margin=0.1)).loss
    torch.testing.assert_close(actual, expected)

    similar = u @ v.T > 0.5
    similar.fill_diagonal_(False)
    expected = F.cross_entropy((scale * q @ k.T).masked_fill(similar, -torch.inf), torch.arange(N))
    actual = InfoNCELoss()(q, k, scale, mask=guide_mask(u, [v], threshold=0.5)).loss
    torch.testing.assert_close(actual, expected)


def test_clip_masks_both_directions_by_id():
    x, y, scale = unit(normal(N, D, seed=1)), unit(normal(N, D, seed=2)), 4.0
    ids, target = torch.tensor([0, 1, 0, 2, 3, 1, 4]), torch.arange(N)
    same = (ids[:, None] == ids).fill_diagonal_(False)
    logits = (scale * x @ y.T).masked_fill(same, -torch.inf)
    expected = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    torch.testing.assert_close(ClipLoss()(x, y, scale, ids=ids).loss, expected)
    plain = ClipLoss()(x, y, scale).loss
    torch.testing.assert_close(ClipLoss()(x, y, scale, ids=target).loss, plain)


def test_hardness_margin_and_own_hard_negatives():
    q, k, scale, target = (
        unit(normal(N, D, seed=1)),
        unit(normal(N, D, seed=2)),
        4.0,
        torch.arange(N),
    )
    hard = unit(normal(N, 2, D, seed=3))
    cosine = q @ k.T
    off = 1 - torch.eye(N, dtype=torch.float64)
    expected = F.cross_entropy(scale * cosine + 3.0 * cosine.detach() * off, target)
    torch.testing.assert_close(InfoNCELoss(hardness=3.0)(q, k, scale).loss, expected)
    expected = F.cross_entropy(scale * (cosine - 0.2 * torch.eye(N)), target)
    torch.testing.assert_close(InfoNCELoss(margin=0.2)(q, k, scale).loss, expected)
    own = torch.cat([cosine.diagonal()[:, None], torch.einsum("nd,nkd->nk", q, hard)], 1)
    loss = InfoNCELoss(in_batch=False, own_hard_only=True)
    out = loss(q, k, scale, hard_negatives=hard)
    torch.testing.assert_close(out.loss, F.cross_entropy(scale * own, torch.zeros_like(target)))
    torch.testing.assert_close(out.hits, own.argmax(1) == 0)


def test_symmetric_query_negatives_are_nt_xent():
    q, k = normal(N, D, seed=1), normal(N, D, seed=2)
    actual = InfoNCELoss(symmetric=True, query_negatives=True)(q, k, SCALE)
    expected = NTXentLoss()(q, k, SCALE)
    torch.testing.assert_close(actual.loss, expected.loss)
    torch.testing.assert_close(actual.per_sample, expected.per_sample)


def test_symmetric_info_nce_is_clip_also_where_it_takes_two_sweeps():
    q, k = normal(N, D, seed=1), normal(N, D, seed=2)
    expected = ClipLoss()(q, k, SCALE).loss
    torch.testing.assert_close(InfoNCELoss(True)(q, k, SCALE).loss, expected)
    nothing = id_mask(torch.arange(N))
    torch.testing.assert_close(InfoNCELoss(True)(q, k, SCALE, mask=nothing).loss, expected)


def test_hits_are_those_of_the_largest_logit():
    q, k, hard, queue = (normal(9, D, seed=s) for s in (1, 2, 3, 4))
    columns = unit(torch.cat([k, hard, queue]))
    expected = (unit(q) @ columns.T).argmax(1) == torch.arange(9)
    q[:4] = k[:4] + 0.1 * q[:4]
    expected = (unit(q) @ columns.T).argmax(1) == torch.arange(9)
    assert 0 < expected.sum() < 9
    out = InfoNCELoss()(q, k, SCALE, hard_negatives=hard, queue=queue)
    assert torch.equal(out.hits, expected)
    expected = (unit(q) @ unit(k).T).argmax(1) == torch.arange(9)
    assert torch.equal(ClipLoss()(q, k, SCALE).hits, expected)


@pytest.mark.parametrize("name", ["attraction", "repulsion"])
def test_detached_weights_keep_the_value_and_stop_the_gradient(name):
    x, y = (unit(normal(N, D, seed=s)).requires_grad_() for s in (1, 2))

    def run(detach: bool) -> Tensor:
        if name == "attraction":
            views = torch.stack([x, y, y.flip(0)])
            return attraction(views, 1.3, detach_weights=detach).cost.sum()
        return repulsion(x, y, 1.3, detach_weights=detach).cost.sum()

    def by_hand() -> Tensor:
        if name == "attraction":
            views = torch.stack([x, y, y.flip(0)], 1)
            d = (views[:, :, None] - views[:, None]).square().sum(-1)
            own, sign = torch.eye(3, dtype=torch.bool), 1
        else:
            d = pairwise_squared_distance(x, y)
            own, sign = torch.eye(N, dtype=torch.bool), -1
        weight = (sign * 1.3 * d).masked_fill(own, -torch.inf).softmax(-1).detach()
        return (weight * d).sum() / (3 if name == "attraction" else 1)

    torch.testing.assert_close(run(True), run(False))
    fixed, free = (torch.autograd.grad(run(detach), (x, y)) for detach in (True, False))
    for actual, expected in zip(fixed, torch.autograd.grad(by_hand(), (x, y)), strict=True):
        torch.testing.assert_close(actual, expected)
    assert not torch.allclose(fixed[0], free[0])


def test_euclidean_momentum_cost():
    q, k = (unit(normal(N, D, seed=s)) for s in (1, 2))
    q.requires_grad_()
    actual = cacr_momentum(torch.stack([q, q.flip(0)]), k, 0.5, cost="euclidean").loss
    total = torch.zeros((), dtype=torch.float64)
    views = [q, q.flip(0)]
    for n in range(N):
        p = torch.stack([(v[n] - k[n]).square().sum() / 0.5 for v in views]).softmax(0).detach()
        for weight, v in zip(p, views, strict=True):
            cost = 1 - k @ v[n]
            others = torch.arange(N) != n
            pi = (-cost[others] / 0.5).softmax(0).detach()
            total = total + weight * (cost[n] - (pi * cost[others]).sum()) / N
    torch.testing.assert_close(actual, total)
    for a, b in zip(torch.autograd.grad(actual, q), torch.autograd.grad(total, q), strict=True):
        torch.testing.assert_close(a, b)


def test_distances_and_uniformity_by_hand():
    x, y = normal(N, D, seed=1), normal(5, D, seed=2)
    expected = (x[:, None] - y[None]).square().sum(-1)
    torch.testing.assert_close(pairwise_squared_distance(x, y), expected)
    pairs = torch.pdist(x).square()
    torch.testing.assert_close(uniformity(x, 0.7), (-pairs / 1.4).exp().mean().log())
    s = normal(N, 2, seed=3)
    both = pairwise_squared_distance(x, x) + pairwise_squared_distance(s, s)
    expected = (-both / 1.4).exp().mean(1).log().mean()
    torch.testing.assert_close(joint_entropy(x, s, 0.7), expected)
    expected = (-pairwise_squared_distance(x, y) * 0.6 / 2).logsumexp(1)
    torch.testing.assert_close(gaussian_log_sum(x, y, 0.6), expected)


def test_align_uniform_is_the_weighted_sum_and_its_rows_are_below_it():
    x, y = (normal(N, D, seed=s).requires_grad_() for s in (1, 2))
    out = AlignUniformLoss(0.7, 1.3)(x, y)
    u, v = F.normalize(x, dim=1), F.normalize(y, dim=1)
    align = (u - v).square().sum(1).mean()
    uniform = sum((-2 * torch.pdist(z).square()).exp().mean().log() / 2 for z in (u, v))
    expected = 0.7 * align + 1.3 * uniform
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(out.loss, [x, y]), torch.autograd.grad(expected, [x, y])
    )
    assert out.per_sample.mean() < out.loss  # mean of logs against log of the mean
    rows = AlignUniformLoss(0.7, 0.0)(x, y)
    torch.testing.assert_close(rows.per_sample.mean(), rows.loss)


def test_margin_ranking_equals_torch():
    high, low = normal(N, 1, seed=1)[:, 0], normal(N, 1, seed=2)[:, 0]
    out = MarginRankingLoss(0.3)(high, low)
    expected = F.margin_ranking_loss(high, low, torch.ones(N), margin=0.3)
    torch.testing.assert_close(out.loss, expected)
    assert torch.equal(out.hits, high > low)


def test_triplet_equals_torch():
    a, p, n = (normal(N, D, seed=s) for s in (1, 2, 3))
    expected = F.triplet_margin_loss(a, p, n, margin=0.5, eps=0)
    torch.testing.assert_close(TripletLoss(0.5, "euclidean")(a, p, n).loss, expected)
    cosine = (1 - F.cosine_similarity(a, p)) - (1 - F.cosine_similarity(a, n)) + 0.5
    torch.testing.assert_close(TripletLoss(0.5, "cosine")(a, p, n).loss, cosine.relu().mean())
