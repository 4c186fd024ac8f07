"""Invariances, gradients and edges that hold for every loss."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses.auxiliary.prototypes import prototype_softmax
from common.losses.cacr import CACRLoss, CACRMomentumLoss, CACRQueueLoss
from common.losses.functional.cacr import cacr, cacr_momentum
from common.losses.functional.info_nce import info_nce
from common.losses.functional.kernel import joint_log_sum
from common.losses.functional.masks import guide_mask
from common.losses.functional.soft import cwcl, symmetric_kl
from common.losses.functional.two_view import von_mises_fisher_weight
from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import HydraLoss, OneToKLoss, SupConLoss
from common.losses.output import LossOutput
from common.losses.soft import CWCLLoss, DistillationLoss
from common.losses.two_view import DCLLoss, DebiasedLoss, NTXentLoss, TargetAnchoredLoss

N, D = 6, 5
LABELS = torch.tensor([0, 1, 0, 1, 2, 2])
TEACHER = torch.linspace(-1, 1, N * 3).view(N, 3).sin()

Pair = Callable[[Tensor, Tensor, Tensor | float], LossOutput]

LOSSES: dict[str, Pair] = {
    "clip": ClipLoss(),
    "clip_smooth": ClipLoss(label_smoothing=0.1),
    "siglip": SigLipLoss(),
    "info_nce": InfoNCELoss(),
    "info_nce_symmetric": InfoNCELoss(symmetric=True, hardness=1.0),
    "info_nce_hard": lambda x, y, s: InfoNCELoss()(x, y, s, hard_negatives=x - y),
    "info_nce_logit": lambda x, y, s: InfoNCELoss(hard_logit=-0.7)(
        x, y, s, hard_negatives=torch.stack([x - y, y - 2 * x], 1)
    ),
    "nt_xent": NTXentLoss(),
    "dcl": DCLLoss(),
    "dclw": DCLLoss(weighted=True),
    "debiased": DebiasedLoss(0.05, beta=0.5),
    "sup_con": lambda x, y, s: SupConLoss()(torch.stack([x, y], 1), LABELS[: len(x)], s),
    "sup_con_in": lambda x, y, s: SupConLoss("in")(torch.stack([x, y], 1), LABELS[: len(x)], s),
    "cwcl": CWCLLoss(),
    "hydra": lambda x, y, s: HydraLoss()(
        x, torch.full_like(x, 0.5), LABELS[: len(x)], LABELS.flip(0)[: len(x)], s, keys=y
    ),
    "one_to_k": lambda x, y, s: OneToKLoss(2)(x, torch.stack([y, x + y], 1), s),
    "distillation": lambda x, y, s: DistillationLoss(symmetric=True)(
        x, y, TEACHER[: len(x)], TEACHER.flip(0)[: len(x)], s, 3.0
    ),
    "cacr": lambda x, y, s: CACRLoss()(torch.stack([x, y])),
    "prototypes": lambda x, y, s: prototype_softmax(
        F.normalize(x, dim=1), F.normalize(y, dim=1), LABELS[: len(x)] % len(y), s, margin=0.1
    ),
}
# losses whose value is that of a batch whose rows mean nothing but their partner
UNORDERED = [
    name
    for name in LOSSES
    if name not in ("sup_con", "sup_con_in", "hydra", "prototypes", "distillation")
]
SMALL_BATCH = ["clip", "clip_smooth", "siglip", "info_nce", "info_nce_hard", "one_to_k", "cwcl"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", LOSSES)
def test_gradcheck(name):
    x, y = (normal(N, D, seed=s).requires_grad_() for s in (1, 2))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)

    def values(x: Tensor, y: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        out = LOSSES[name](x, y, scale)
        return out.loss, out.per_sample

    if name in ("info_nce_symmetric", "cwcl"):  # weights without gradient: not the full derivative
        assert not torch.autograd.gradcheck(values, (x, y, scale), raise_exception=False)
        return
    assert torch.autograd.gradcheck(values, (x, y, scale))


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_mean_of_the_samples(name):
    out = LOSSES[name](normal(N, D, seed=1), normal(N, D, seed=2), 4.0)
    torch.testing.assert_close(out.loss, out.per_sample.mean())
    assert out.hits is None or out.hits.dtype == torch.bool


@pytest.mark.parametrize("name", UNORDERED)
def test_the_order_of_the_batch_does_not_matter(name):
    x, y, order = normal(N, D, seed=1), normal(N, D, seed=2), torch.tensor([3, 0, 5, 1, 4, 2])
    out, shuffled = LOSSES[name](x, y, 4.0), LOSSES[name](x[order], y[order], 4.0)
    torch.testing.assert_close(shuffled.loss, out.loss)
    torch.testing.assert_close(shuffled.per_sample, out.per_sample[order])
    assert not torch.isclose(LOSSES[name](x[order], y, 4.0).loss, out.loss)


@pytest.mark.parametrize("name", [n for n in LOSSES if n != "prototypes"])
def test_a_rotation_of_the_space_does_not_matter(name):
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    turn = torch.linalg.qr(normal(D, D, seed=3)).Q
    if name == "hydra":  # its gate belongs to coordinates, here it is the same for all of them
        turn = torch.eye(D, dtype=torch.float64)[torch.randperm(D)]
    torch.testing.assert_close(
        LOSSES[name](x @ turn, y @ turn, 4.0).loss, LOSSES[name](x, y, 4.0).loss
    )


@pytest.mark.parametrize("name", ["clip", "siglip", "nt_xent", "dcl", "dclw", "debiased"])
def test_swapping_the_sides_does_not_matter(name):
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    torch.testing.assert_close(LOSSES[name](y, x, 4.0).loss, LOSSES[name](x, y, 4.0).loss)


@pytest.mark.parametrize("name", ["clip", "info_nce", "nt_xent", "siglip", "sup_con", "dcl"])
def test_lengths_matter_only_without_normalisation(name):
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    torch.testing.assert_close(LOSSES[name](3 * x, 0.1 * y, 4.0).loss, LOSSES[name](x, y, 4.0).loss)
    raw = ClipLoss(normalize=False)
    assert not torch.isclose(raw(3 * x, y, 1.0).loss, raw(x, y, 1.0).loss)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("name", LOSSES)
def test_extremes_are_finite(name, scale):
    """Duplicate rows, a zero vector, opposite vectors and extreme temperatures, in float32."""
    x, y = normal(N, D, seed=1).float(), normal(N, D, seed=2).float()
    x[1] = x[0]
    y[1] = y[0]
    y[2] = -x[2]
    x[3] = 0
    x.requires_grad_()
    y.requires_grad_()
    multiplier = torch.tensor(scale, requires_grad=True)
    out = LOSSES[name](x, y, multiplier)
    out.loss.backward()
    assert out.per_sample.isfinite().all()
    for leaf in (x, y, multiplier):
        assert leaf.grad is None or leaf.grad.isfinite().all()


# cases that pass their inputs on as they are (the others add or normalise them, which rounds)
UNCHANGED = [
    name
    for name in LOSSES
    if name not in ("info_nce_hard", "info_nce_logit", "one_to_k", "prototypes")
]


@pytest.mark.parametrize("name", UNCHANGED)
def test_half_precision_is_computed_in_float32(name):
    x, y = normal(N, D, seed=1).bfloat16(), normal(N, D, seed=2).bfloat16()
    x.requires_grad_()
    expected = LOSSES[name](x.detach().float(), y.float(), 20.0).loss
    with torch.autocast("cpu", torch.bfloat16):
        out = LOSSES[name](x, y, 20.0)
    assert out.loss.dtype == torch.float32
    torch.testing.assert_close(out.loss.detach(), expected)
    out.loss.backward()
    assert x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", SMALL_BATCH)
def test_one_pair(name):
    x, y = normal(1, D, seed=1).requires_grad_(), normal(1, D, seed=2)
    out = LOSSES[name](x, y, 5.0)
    out.loss.backward()
    assert out.loss.isfinite()
    if name in ("clip", "info_nce"):
        assert out.loss.item() == pytest.approx(0, abs=1e-12)
        assert x.grad.abs().max() < 1e-12
        assert out.hits.all()


def test_per_sample_gradients_can_be_weighted():
    x, y = normal(N, D, seed=1).requires_grad_(), normal(N, D, seed=2)
    weight = torch.tensor([1.0, 0, 0, 2, 0, 0], dtype=torch.float64)
    actual = torch.autograd.grad((weight * InfoNCELoss()(x, y, 4.0).per_sample).sum(), x)[0]
    assert (actual.abs().sum(1) > 0).tolist() == (weight > 0).tolist()


def test_rows_without_a_positive_do_not_count():
    z, labels = normal(4, D, seed=1).requires_grad_(), torch.tensor([0, 0, 1, 2])
    out = SupConLoss()(z, labels, 4.0)
    assert out.per_sample[2:].tolist() == [0, 0]
    torch.testing.assert_close(out.loss, out.per_sample[:2].mean())
    lonely = SupConLoss("in")(z, torch.arange(4), 4.0)
    assert lonely.loss.item() == 0
    assert torch.autograd.grad(lonely.loss, z)[0].abs().max() == 0


def test_sup_con_with_unique_labels_per_pair_is_nt_xent():
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    views = torch.stack([x, y], 1)
    expected = NTXentLoss()(x, y, 4.0).loss
    for mode in ("out", "in"):
        torch.testing.assert_close(SupConLoss(mode)(views, torch.arange(N), 4.0).loss, expected)


def test_sup_con_with_a_bank():
    z, bank = normal(3, D, seed=1), normal(5, D, seed=2)
    y, labels = torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1, 0, 2])
    out = SupConLoss()(z, y, 4.0, keys=bank, key_labels=labels)
    s = (4 * F.normalize(z, dim=1) @ F.normalize(bank, dim=1).T).log_softmax(1)
    same = (y[:, None] == labels).double()
    torch.testing.assert_close(out.loss, -((same * s).sum(1) / same.sum(1)).mean())


def test_info_nce_gradient_is_the_decoupled_one_times_the_coupling_factor():
    x, y = normal(N, D, seed=1).requires_grad_(), normal(N, D, seed=2)
    for row in range(N):
        coupled = torch.autograd.grad(InfoNCELoss()(x, y, 5.0).per_sample[row], x)[0]
        apart = InfoNCELoss(decoupled=True)(x, y, 5.0).per_sample[row]
        probability = torch.exp(-InfoNCELoss()(x, y, 5.0).per_sample[row])
        factor = 1 - probability.detach()
        torch.testing.assert_close(coupled, factor * torch.autograd.grad(apart, x)[0])


def test_decoupled_loss_may_be_negative():
    x = normal(N, D, seed=1)
    assert DCLLoss()(x, x, 20.0).loss < 0


def test_vmf_weights():
    cosine = torch.tensor([0.9, 0.1, 0.5, -0.3], dtype=torch.float64)
    weight = von_mises_fisher_weight(cosine, 0.5)
    torch.testing.assert_close(weight.mean(), torch.tensor(1.0, dtype=torch.float64))
    assert torch.equal(weight.argsort(descending=True), cosine.argsort())


def test_detached_dclw_weight_changes_the_gradient_only():
    x, y = normal(N, D, seed=1).requires_grad_(), normal(N, D, seed=2)
    free, fixed = (DCLLoss(True, detach_weight=d)(x, y, 4.0).loss for d in (False, True))
    torch.testing.assert_close(free, fixed)
    free, fixed = (torch.autograd.grad(loss, x)[0] for loss in (free, fixed))
    assert not torch.allclose(free, fixed)


def test_target_anchored_gives_no_gradient_to_targets():
    x, y = (normal(N, D, seed=s).requires_grad_() for s in (1, 2))
    TargetAnchoredLoss()(x, y, 4.0).loss.backward()
    assert x.grad is None
    assert y.grad.abs().max() > 0


def test_debiasing_lowers_the_loss_and_hardness_raises_it():
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    plain = DebiasedLoss(0.0)(x, y, 2.0).loss
    torch.testing.assert_close(plain, NTXentLoss()(x, y, 2.0).loss)
    assert DebiasedLoss(0.1)(x, y, 2.0).loss < plain
    assert DebiasedLoss(0.0, beta=1.0)(x, y, 2.0).loss > plain


def test_teacher_that_equals_the_student_has_no_gradient():
    x, y = (normal(N, D, seed=s).requires_grad_() for s in (1, 2))
    out = DistillationLoss(relative=True)(x, y, x, y, 4.0, 4.0)
    out.loss.backward()
    assert out.loss.abs() < 1e-12
    assert x.grad.abs().max() < 1e-12


def test_cwcl_with_orthogonal_features_prefers_its_own_partner_only():
    """Weights are 1 on the diagonal and 1/2 elsewhere, so the loss is a mix of two cross
    entropies."""
    x, y = F.normalize(normal(N, N, seed=1), dim=1), F.normalize(normal(N, N, seed=2), dim=1)
    log_p = (4 * x @ y.T).log_softmax(1)
    expected = -(0.5 * log_p.sum(1) + 0.5 * log_p.diagonal()) / (0.5 * N + 0.5)
    guide = torch.eye(N, dtype=torch.float64)
    torch.testing.assert_close(cwcl(x, y, guide, guide, 4.0).per_sample, expected)


def test_cacr_weights():
    views = F.normalize(normal(3, N, D, seed=1), dim=-1)
    terms = cacr(views, 2.0, 2.0)
    uniform = cacr(views, 2.0, 2.0, weighting="none")
    assert (terms.attraction > uniform.attraction).all()  # far positives weigh more
    assert (terms.repulsion > uniform.repulsion).all()  # near negatives weigh more
    assert (terms.positive_entropy < uniform.positive_entropy).all()
    assert (terms.negative_entropy < uniform.negative_entropy).all()
    torch.testing.assert_close(uniform.negative_entropy, torch.full((N,), N - 1.0).log().double())
    scaled = cacr(views, 2.0, 2.0, alpha=3.0, beta=0.5)
    torch.testing.assert_close(scaled.attraction, 3 * terms.attraction)
    torch.testing.assert_close(scaled.repulsion, 0.5 * terms.repulsion)
    pair = cacr(views[:2])
    torch.testing.assert_close(pair.attraction, (views[0] - views[1]).square().sum(-1))


def test_rbf_momentum_with_one_view_is_info_nce_times_two_temperatures():
    q, k = (F.normalize(normal(N, D, seed=s), dim=1) for s in (1, 2))
    actual = cacr_momentum(q[None], k, 0.2).loss
    torch.testing.assert_close(actual, 0.4 * info_nce(q, k, 5.0).loss)


def test_symmetric_kl_is_invariant_to_shifts_of_the_logits():
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    torch.testing.assert_close(symmetric_kl(x + 5, y - 3), symmetric_kl(y, x))
    p, q = x.softmax(1), y.softmax(1)
    both = (p * (p / q).log()).sum(1) + (q * (q / p).log()).sum(1)
    torch.testing.assert_close(symmetric_kl(x, y), 0.5 * both.mean())


def test_joint_log_sum_of_empty_blocks():
    a = torch.tensor([1.0, -torch.inf, -torch.inf, 2.0], requires_grad=True)
    b = torch.tensor([3.0, 0.5, -torch.inf, 2.0], requires_grad=True)
    total = joint_log_sum([a, b])
    torch.testing.assert_close(total.detach(), torch.logaddexp(a, b).detach())
    total[[0, 1, 3]].sum().backward()
    torch.testing.assert_close(a.grad[3], torch.tensor(0.5))
    assert a.grad.isfinite().all()
    assert b.grad[1] == 1


@pytest.mark.parametrize("backend", ["dense", "blocked"])
@pytest.mark.parametrize("logit", [-30.0, -17.0, -5.0, 0.7, 30.0])
def test_the_logit_of_own_hard_negatives_is_exact_however_near_they_are(logit, backend):
    """Their weight was corrected by a difference, which cancels where they are most of the sum."""
    x, y = normal(N, D, seed=1), normal(N, D, seed=2)
    hard = x[:, None] + 0.1 * normal(N, 2, D, seed=3)
    actual = []
    for dtype in (torch.float32, torch.float64):
        query = x.to(dtype, copy=True).requires_grad_()
        loss = InfoNCELoss(hard_logit=logit, backend=backend)
        out = loss(query, y.to(dtype), 100.0, hard_negatives=hard.to(dtype))
        out.loss.backward()
        actual.append((out.per_sample.detach().double(), query.grad.double()))
    torch.testing.assert_close(actual[0][0], actual[1][0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(actual[0][1], actual[1][1], rtol=1e-3, atol=1e-3)
    q, k, h = (F.normalize(z, dim=-1) for z in (x, y, hard))
    own = torch.eye(N, dtype=torch.float64).repeat_interleave(2, 1)
    logits = 100 * torch.cat([q @ k.T, q @ h.flatten(0, 1).T + logit / 100 * own], 1)
    expected = F.cross_entropy(logits, torch.arange(N), reduction="none")
    torch.testing.assert_close(actual[1][0], expected)


def test_a_decoupled_row_without_negatives_holds_nothing():
    """All others share its id: the logarithm of an empty sum made the loss -inf."""
    x, y = normal(4, D, seed=1).requires_grad_(), normal(4, D, seed=2)
    loss = InfoNCELoss(decoupled=True)
    out = loss(x, y, 5.0, ids=torch.tensor([0, 0, 0, 0]))
    assert out.per_sample.tolist() == [0, 0, 0, 0]
    out.loss.backward()
    assert not x.grad.any()
    assert loss(x, y, 5.0, ids=torch.tensor([0, 0, 1, 2])).per_sample.all()


def test_duplicates_of_the_positive_count_under_its_own_similarity():
    """The bound was one product and the candidates others: rounding kept or masked them by
    chance."""
    u = F.normalize(normal(64, 384, seed=1).float(), dim=1).repeat(2, 1)
    v = F.normalize(u + 0.05 * normal(1, 384, seed=2).float(), dim=1)
    mask = guide_mask(u, [v])
    twin = (torch.arange(128) + 64) % 128
    assert ((u @ v.T)[torch.arange(128), twin] <= mask.thr).all()
    nearer = F.normalize(u + 0.04 * normal(1, 384, seed=2).float(), dim=1)
    assert ((u * nearer).sum(1) > mask.thr).all()


@pytest.mark.parametrize("weighting", ["full", "without_w1", "without_w2", "none"])
def test_a_lone_sample_has_the_negatives_of_the_queue(weighting):
    views = F.normalize(normal(2, 1, D, seed=1), dim=-1)
    queue = F.normalize(normal(7, D, seed=2), dim=1)
    alone, batch = (
        CACRQueueLoss(weighting=weighting, in_batch=own)(views, views, queue).loss
        for own in (False, True)
    )
    torch.testing.assert_close(batch, alone)


def test_the_sum_over_samples_is_that_of_the_samples():
    q, k = (list(normal(2, N, D, seed=s)) for s in (1, 2))
    mean, total = (CACRMomentumLoss(cost="euclidean", reduction=r)(q, k) for r in ("mean", "sum"))
    torch.testing.assert_close(total.loss, N * mean.loss)
    assert torch.equal(total.loss, mean.per_sample.sum())
