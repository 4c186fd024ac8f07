"""The objective: golden values and the checklist items on the equations (1-8, 11, 12, 14)."""

import math

import pytest
import torch
from torch.nn import functional as F

from common.losses.functional.cacr import attraction, repulsion
from common.losses.functional.info_nce import info_nce
from projects.cacr import diagnostics
from projects.cacr.diagnostics import (
    attraction_weights,
    positive_distances,
    repulsion_weights,
    weight_diagnostics,
)
from projects.cacr.module import cosine_momentum
from projects.cacr.objective import build_objective
from projects.cacr.terms import multi_view_terms
from tests.projects.cacr.conftest import (
    GOLDEN,
    WEIGHTINGS,
    golden_method,
    golden_views,
    method,
    random_views,
    wave,
)
from tests.projects.cacr.workers import (
    multi_view,
    objective_value,
    one_rank_loss,
    with_momentum,
    with_queue,
)

MULTI_VIEW = [c for c in GOLDEN["cases"] if "views_total_K_plus_1" in c]
IMAGENET = [c for c in GOLDEN["cases"] if "n_query_views" in c]
EXACT = {"rtol": 0.0, "atol": 1e-10}


def close(found, wanted):
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    found = torch.as_tensor(found, dtype=torch.float64).detach().flatten()[: wanted.numel()]
    torch.testing.assert_close(found.view_as(wanted), wanted, **EXACT)


# -- golden --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MULTI_VIEW)
def test_item_5_losses_and_gradients_equal_the_golden_values(case):
    """Checklist 5 and 11: 2 and 5 views, every ablation and the debiased variant, to 1e-10."""
    views, golden = golden_views(case), case["outputs"]
    cfg = golden_method(case)
    objective = build_objective(cfg)
    objective.normalize = False
    terms = multi_view_terms(objective, torch.stack(views), cfg)
    terms["loss"].backward()
    close(terms["attraction"], golden["loss_attraction"])
    close(terms["repulsion"], golden["loss_repulsion"])
    close(terms["loss"], golden["total"])
    close(views[0].grad.norm(), golden["grad_norm_z0"])
    close(views[-1].grad.norm(), golden["grad_norm_zlast"])
    close(views[0].grad, golden["grad_z0_first4"])


@pytest.mark.parametrize("case", MULTI_VIEW)
def test_item_5_weights_equal_the_golden_values(case):
    """Checklist 5: the conditional weights of the last query and the last pair."""
    z = torch.stack(golden_views(case)).detach()
    positive = attraction_weights(z[-1], z[:-1], case["tau_pos"])
    negative = repulsion_weights(z[-2], z[-1], case["tau_neg"])
    close(positive[0], case["outputs"]["pos_weights_last_query_row0"])
    close(negative[0, 1:], case["outputs"]["neg_weights_last_pair_row0_first4"])


@pytest.mark.parametrize("case", IMAGENET)
def test_item_5_imagenet_form_equals_the_golden_values(case):
    """Checklist 5: RBF form with one and three query views."""
    rows, dim, golden = case["N"], case["d"], case["outputs"]
    queries = [wave(rows, dim, 1 + 0.3 * v).requires_grad_() for v in range(case["n_query_views"])]
    key = wave(rows, dim, 2.5)
    # the key's own view is left out
    loss = with_momentum([key, *queries], [key], cost="rbf", temperature=case["T"])
    loss.backward()
    close(loss, golden["loss"])
    close(queries[0].grad.norm(), golden["grad_norm_q0"])
    close(queries[0].grad, golden["grad_q0_first4"])


def test_golden_comparison_can_fail():
    """Negative twin: another inverse temperature misses the values."""
    case = dict(MULTI_VIEW[1], tau_neg=1.3)
    cfg = golden_method(case)
    views = torch.stack(golden_views(case))
    actual = multi_view_terms(build_objective(cfg), views, cfg)["loss"]
    assert abs(float(actual) - case["outputs"]["total"]) > 0.01


# -- checklist -----------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [2, 5])
def test_item_1_weights_sum_to_one_and_leave_the_own_image_out(views):
    """Checklist 1: K positives, M - 1 negatives; the losses are sums with these weights."""
    z = random_views(views, 6)
    positive, negative = attraction_weights(z[0], z[1:], 1.5), repulsion_weights(z[0], z[1], 0.9)
    assert positive.shape == (6, views - 1)
    close(positive.sum(1), torch.ones(6))
    close(negative.sum(1), torch.ones(6))
    assert (negative.diagonal() == 0).all()
    assert (negative > 0).sum().item() == 6 * 5
    distance = torch.cdist(z[0], z[1]).square()
    close(repulsion(z[0], z[1], 0.9).cost, (negative * distance).sum(1))
    per_query = [
        (
            attraction_weights(z[x], z[[k for k in range(views) if k != x]], 1.5)
            * positive_distances(z[x], z[[k for k in range(views) if k != x]])
        ).sum(1)
        for x in range(views)
    ]
    close(attraction(z, 1.5).cost, torch.stack(per_query).mean(0))


def test_item_2_far_positives_and_near_negatives_weigh_more():
    """Checklist 2: weights are monotone in the distance, in opposite directions."""
    z = random_views(5, 6)
    far = positive_distances(z[0], z[1:]).argsort(1)
    weights = attraction_weights(z[0], z[1:], 1.0).gather(1, far)
    assert (weights.diff(dim=1) > 0).all()
    near = torch.cdist(z[0], z[1]).fill_diagonal_(torch.inf).argsort(1)
    weights = repulsion_weights(z[0], z[1], 1.0).gather(1, near)
    assert (weights.diff(dim=1) < 0).all()


def test_item_2_large_tau_sees_the_farthest_positive_and_the_nearest_negative_only():
    """Checklist 2: the limits of the weights."""
    z = random_views(4, 5)
    terms = multi_view(z, tau_pos=1e5, tau_neg=1e5)
    own = torch.eye(4, dtype=torch.bool)[..., None]
    distance = (z[:, None] - z[None]).square().sum(-1).masked_fill(own, 0)
    close(terms["attraction"], distance.amax(1).mean())
    nearest = [
        torch.cdist(z[x], z[y]).square().fill_diagonal_(torch.inf).amin(1).mean()
        for x in range(4)
        for y in range(x + 1, 4)
    ]
    close(terms["repulsion"], -torch.stack(nearest).mean())


def test_item_3_none_is_the_linear_contrast_of_uniform_averages():
    """Checklist 3: with unit vectors 2 - 2 E[z z+] and -(2 - 2 E[z z-])."""
    z = random_views(3, 6)
    actual = multi_view(z, weighting="none")
    similar = torch.einsum("xid,yjd->xyij", z, z)
    pairs = [(x, y) for x in range(3) for y in range(x + 1, 3)]
    positive = torch.stack([similar[x, y].diagonal().mean() for x, y in pairs]).mean()
    others = ~torch.eye(6, dtype=torch.bool)
    negative = torch.stack([similar[x, y][others].mean() for x, y in pairs]).mean()
    close(actual["attraction"], 2 - 2 * positive)
    close(actual["repulsion"], -(2 - 2 * negative))


def test_item_3_each_ablation_changes_one_term():
    """Checklist 3: without_w1 the attraction, without_w2 the repulsion, none both."""
    z = random_views(4, 6)
    actual = {w: multi_view(z, weighting=w) for w in WEIGHTINGS}
    for name, attracted, repelled in (
        ("full", "full", "full"),
        ("without_w1", "none", "full"),
        ("without_w2", "full", "none"),
    ):
        close(actual[name]["attraction"], actual[attracted]["attraction"])
        close(actual[name]["repulsion"], actual[repelled]["repulsion"])
    assert actual["full"]["attraction"] > actual["none"]["attraction"] + 1e-3
    assert actual["full"]["repulsion"] > actual["none"]["repulsion"] + 1e-3


def test_item_4_one_positive_is_plain_alignment():
    """Checklist 4: K = 1, for every inverse temperature."""
    z = random_views(2, 6)
    assert (attraction_weights(z[0], z[1:], 7.0) == 1).all()
    expected = (z[0] - z[1]).square().sum(1).mean()
    close(multi_view(z, tau_pos=7.0)["attraction"], expected)
    more = random_views(3, 6)
    actual = multi_view(more, tau_pos=7.0)["attraction"]
    assert abs(float(actual) - float((more[0] - more[1]).square().sum(1).mean())) > 1e-3


def test_item_6_alpha_and_beta_scale_the_terms_and_nothing_else():
    """Checklist 6: the terms are linear in them, so the weights stay."""
    z = random_views(4, 6)
    plain = multi_view(z)
    scaled = multi_view(z, alpha=3.0, beta=0.25)
    close(scaled["attraction"], 3 * plain["attraction"])
    close(scaled["repulsion"], 0.25 * plain["repulsion"])
    close(scaled["loss"], scaled["attraction"] + scaled["repulsion"])
    # Were they inside the softmax of the weights, the entropies would move with them.
    entropies = [
        (terms.positive_entropy, terms.negative_entropy)
        for terms in (
            build_objective(method(**options)).terms(z)
            for options in ({}, {"alpha": 3.0, "beta": 0.25})
        )
    ]
    assert torch.equal(entropies[0][0], entropies[1][0])
    assert torch.equal(entropies[0][1], entropies[1][1])
    sharper = build_objective(method(tau_pos=3.0, tau_neg=2.7)).terms(z)  # the twin: inside it
    assert (sharper.positive_entropy < entropies[0][0]).all()
    assert (sharper.negative_entropy < entropies[0][1]).all()


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_item_8_two_views_with_rbf_are_half_of_moco_v3(temperature):
    """Checklist 8: MoCo v3 sums 2T CE over both directions; here their mean."""
    q, k = random_views(2, 6), random_views(2, 6, seed=1)
    scale = 1 / temperature
    labels = torch.arange(6)
    moco_v3 = sum(
        2 * temperature * F.cross_entropy(a @ b.T * scale, labels)
        for a, b in ((q[0], k[1]), (q[1], k[0]))
    )
    options = {"cost": "rbf", "temperature": temperature}
    close(with_momentum([*q], [*k], **options), 0.5 * moco_v3)
    local = random_views(2, 6, seed=2)
    assert abs(float(with_momentum([*q, *local], [*k], **options) - 0.5 * moco_v3)) > 1e-3


def test_item_8_local_queries_are_weighted_by_their_distance():
    """Checklist 8: with more than one query the weights are softmax(distance / T) and fixed."""
    q, k = random_views(4, 5).requires_grad_(), random_views(1, 5, seed=1)
    weight = ((q - k).square().sum(-1) / 0.5)[1:].softmax(0).detach()
    expected = sum(
        (weight[v] * 2 * 0.5 * info_nce(q[v + 1], k[0], 2.0).per_sample).mean() for v in range(3)
    )
    actual = with_momentum([*q], [*k], cost="rbf", temperature=0.5)
    close(actual, expected)
    (left,), (right,) = torch.autograd.grad(actual, q), torch.autograd.grad(expected, q)
    gradient_at_sphere = right - (right * q).sum(-1, keepdim=True) * q  # prepare() normalises
    torch.testing.assert_close(left, gradient_at_sphere.detach(), **EXACT)


def test_euclidean_imagenet_form_and_its_sum():
    """The released code sums over the rows of a device; the mean is the default here."""
    q, k = random_views(2, 6), random_views(2, 6, seed=1)
    total = 0.0
    for a, b in ((q[0], k[1]), (q[1], k[0])):
        cost = 1 - a @ b.T
        logits = (-cost / 0.5).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
        total += (cost.diagonal() - (logits.softmax(1) * cost).sum(1)).sum() / 2
    options = {"cost": "euclidean", "temperature": 0.5}
    close(with_momentum([*q], [*k], **options, reduction="sum"), total)
    close(with_momentum([*q], [*k], **options), total / 6)


def test_item_11_debiased_repulsion_is_its_formula():
    """Checklist 11: (-tau+ c_pos - beta c_neg) / (1 - tau+), and 0 is the plain form."""
    z = random_views(2, 6)
    plain = multi_view(z, beta=0.5)["repulsion"]
    actual = multi_view(z, beta=0.5, tau_plus=0.1)["repulsion"]
    close(actual, (plain - 0.1 * (z[0] - z[1]).square().sum(1).mean()) / 0.9)


@pytest.mark.parametrize("host", ["batch", "queue", "momentum"])
def test_item_12_embeddings_are_unit_norm_before_costs(host):
    """Checklist 12: the length of an embedding changes nothing."""
    z, keys = random_views(3, 6), random_views(3, 6, seed=1)
    lengths = torch.linspace(0.5, 3, 18, dtype=torch.float64).view(3, 6, 1)
    close(objective_value(host, z * lengths, keys * 2), objective_value(host, z, keys))


def test_detached_weights_change_the_gradient_and_not_the_value():
    z = random_views(4, 6)
    actual = []
    for detach in (False, True):
        leaf = z.clone().requires_grad_()
        loss = multi_view(leaf, detach_weights=detach)["loss"]
        loss.backward()
        actual.append((float(loss), leaf.grad))
    assert actual[0][0] == pytest.approx(actual[1][0], abs=1e-12)
    assert not torch.allclose(actual[0][1], actual[1][1], rtol=1e-3)


# -- baseline ------------------------------------------------------------------------------------


def test_infonce_arm_is_the_mean_over_pairs_of_symmetric_info_nce():
    """The baseline on the same views, at the temperature of pi- and on CACR's gradient scale."""
    z, tau = random_views(3, 6), 1 / 4
    labels = torch.arange(6)
    pairs = [(x, y) for x in range(3) for y in range(3) if x != y]
    expected = torch.stack([F.cross_entropy(z[x] @ z[y].T / tau, labels) for x, y in pairs]).mean()
    actual = multi_view(z, loss="infonce", tau_neg=2.0)["loss"]
    close(actual, 2 * tau * expected)


def test_infonce_without_its_positive_repels_like_detached_cacr():
    """The gradient of the repulsion is that of 2 tau * log-sum over negatives (sheet: relation)."""
    z = random_views(2, 6).requires_grad_()
    loss = multi_view(z, alpha=0.0, tau_neg=2.0, detach_weights=True)["loss"]
    (actual,) = torch.autograd.grad(loss, z)
    logits = (z[0] @ z[1].T / 0.25).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    (expected,) = torch.autograd.grad(2 * 0.25 * logits.logsumexp(1).mean(), z)
    expected = expected - (expected * z).sum(-1, keepdim=True) * z
    torch.testing.assert_close(actual, expected.detach(), **EXACT)


# -- queue ---------------------------------------------------------------------------------------


def slow_queue(q, k, queue, tau_pos, tau_neg, in_batch=True, cached=False, weighting="full"):
    """The loss with every distance spelt out; queue distances are fixed inside the weights."""
    tau_pos = tau_pos if weighting in ("full", "without_w2") else 0.0
    tau_neg = tau_neg if weighting in ("full", "without_w1") else 0.0
    views, rows = q.shape[:2]
    others = ~torch.eye(rows, dtype=torch.bool)
    pulled, pushed = [], []
    for x in range(views):
        far = (q[x] - k[[v for v in range(views) if v != x]]).square().sum(-1)
        pulled.append(((tau_pos * far.detach()).softmax(0) * far).sum(0).mean())
        cost = 2 - 2 * q[0 if cached else x] @ queue.T
        seen = cost.detach()
        if in_batch:
            near = (2 - 2 * q[x] @ q[x].T)[others].view(rows, rows - 1)
            cost, seen = torch.cat([cost, near], 1), torch.cat([seen, near], 1)
        pushed.append(-((-tau_neg * seen).softmax(1) * cost).sum(1).mean())
    return torch.stack(pulled).mean(), torch.stack(pushed).mean()


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_queue_form_is_its_formula(in_batch, cached, weighting):
    """Values and gradients of the MoCo v2 form; queue weights fixed, in-batch weights not."""
    z, k = random_views(3, 5), random_views(3, 5, seed=1)
    queue = F.normalize(wave(9, 8, 0.5), dim=1)
    options = {
        "tau_neg": 2.0,
        "alpha": 0.5,
        "beta": 2.0,
        "in_batch_negatives": in_batch,
        "replicate_cached_queue_bug": cached,
        "weighting": weighting,
    }
    left, right = z.clone().requires_grad_(), z.clone().requires_grad_()
    actual = with_queue(left, k, queue, **options)
    unit = F.normalize(right, dim=-1)
    pulled, pushed = slow_queue(unit, k, queue, 1.0, 2.0, in_batch, cached, weighting)
    close(actual["attraction"], 0.5 * pulled.detach())
    close(actual["repulsion"], 2 * pushed.detach())
    actual["loss"].backward()
    (0.5 * pulled + 2 * pushed).backward()
    torch.testing.assert_close(left.grad, right.grad, **EXACT)


@pytest.mark.parametrize("in_batch", [True, False])
def test_queue_baseline_is_moco_s_loss_on_the_negatives_of_cacr(in_batch):
    """Every other view's key against the queue and, as in CACR, other samples' queries."""
    z, k = random_views(3, 5), random_views(3, 5, seed=1)
    queue = F.normalize(wave(9, 8, 0.5), dim=1)
    tau, expected = 1 / 4, []
    for x in range(3):
        logits = [z[x] @ queue.T]
        if in_batch:
            logits.append((z[x] @ z[x].T)[~torch.eye(5, dtype=torch.bool)].view(5, 4))
        for y in {0, 1, 2} - {x}:
            row = torch.cat([(z[x] * k[y]).sum(1, keepdim=True), *logits], 1) / tau
            expected.append(F.cross_entropy(row, torch.zeros(5, dtype=torch.long)))
    options = {"tau_neg": 2.0, "in_batch_negatives": in_batch}
    close(with_queue(z, k, queue, loss="infonce", **options)["loss"], 2 * tau * sum(expected) / 6)


@pytest.mark.parametrize("options", [{"loss": "infonce"}, {"weighting": "without_w1"}])
def test_momentum_baseline_averages_moco_v3_s_loss_over_the_views(options):
    """No view weighs more than another; CACR's own weights give another value."""
    q, k = random_views(4, 5), random_views(1, 5, seed=1)
    labels = torch.arange(5)
    expected = sum(2 * 0.5 * F.cross_entropy(q[v] @ k[0].T * 2.0, labels) for v in (1, 2, 3)) / 3
    same = {"cost": "rbf", "temperature": 0.5}
    close(with_momentum([*q], [*k], **same, **options), expected)
    assert abs(float(with_momentum([*q], [*k], **same) - expected)) > 1e-3


def test_cached_queue_product_is_another_loss():
    """Bug 2 of the released code, off by default."""
    z, k = random_views(3, 5), random_views(3, 5, seed=1)
    queue = F.normalize(wave(9, 8, 0.5), dim=1)
    plain = with_queue(z, k, queue)["loss"]
    cached = with_queue(z, k, queue, replicate_cached_queue_bug=True)["loss"]
    assert abs(float(plain - cached)) > 1e-4


# -- diagnostics ---------------------------------------------------------------------------------


def test_item_14_diagnostics_are_entropy_and_rank_correlation():
    """Checklist 14: bounds, signs, and what small inverse temperatures do."""
    z = random_views(5, 12)
    actual = weight_diagnostics(z[0], z[1:], z[1], 1.0, 2.0)
    pi = attraction_weights(z[0].float(), z[1:].float(), 1.0)
    assert actual["positive_entropy"] == pytest.approx(float(-(pi * pi.log()).sum(1).mean()))
    assert 0 < actual["negative_entropy"] < math.log(11)
    assert actual["positive_rank_correlation"] > 0.3
    assert actual["negative_rank_correlation"] < -0.3
    flat = weight_diagnostics(z[0], z[1:], z[1], 1e-6, 1e-6)
    assert flat["positive_entropy"] == pytest.approx(math.log(4), abs=1e-5)
    assert flat["negative_entropy"] == pytest.approx(math.log(11), abs=1e-5)
    one = weight_diagnostics(z[0], z[1:2], z[1], 1.0, 2.0)
    assert one["positive_entropy"] == one["positive_rank_correlation"] == 0.0


def test_item_14_negative_twin_shuffled_weights_do_not_follow_the_distance():
    """Checklist 14: the correlation is that of weight and distance, not of any two lists."""
    z = random_views(5, 64)
    shuffled = weight_diagnostics(z[0], z[1:], z[1], 1.0, 2.0)["positive_rank_correlation"]
    from common.evaluation.text.sts import spearman

    pi = attraction_weights(z[0], z[1:], 1.0).flatten()
    order = torch.randperm(len(pi), generator=torch.Generator().manual_seed(0))
    unrelated = spearman(pi[order], positive_distances(z[0], z[1:]).flatten())
    assert abs(unrelated) < 0.25 < shuffled


def test_item_14_anchors_and_a_queue_of_other_samples():
    """Checklist 14: what is repelled may differ from what is attracted, and no row be left out."""
    z, queue = random_views(3, 6).float(), random_views(1, 9, seed=1)[0].float()
    actual = weight_diagnostics(z[0], z[1:], queue, 1.0, 2.0, anchors=z[1], in_batch=False)
    weights = (-2.0 * torch.cdist(z[1], queue).square()).softmax(1)
    assert actual["negative_entropy"] == pytest.approx(
        float(torch.special.entr(weights).sum(1).mean()), rel=1e-5
    )
    whole = weight_diagnostics(z[0], z[1:], queue, 1.0, 2.0, anchors=z[1])
    assert whole["negative_entropy"] < actual["negative_entropy"]


def test_item_14_many_pairs_are_thinned_out_for_the_rank_correlation(monkeypatch):
    """Checklist 14: a queue of 65,536 rows would be millions of pairs."""
    z = random_views(3, 64)
    whole = weight_diagnostics(z[0], z[1:], z[1], 1.0, 2.0)
    monkeypatch.setattr(diagnostics, "RANKED_PAIRS", 500)
    seen = []
    monkeypatch.setattr(diagnostics, "spearman", lambda a, b: seen.append(len(a)) or 0.0)
    thin = weight_diagnostics(z[0], z[1:], z[1], 1.0, 2.0)
    assert seen == [128, 504]  # 64 x 63 pairs, every eighth
    assert thin["negative_entropy"] == whole["negative_entropy"]


def test_momentum_rises_to_one():
    values = [cosine_momentum(p, 0.996) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert values == sorted(values)
    assert values[2] == pytest.approx(0.998)


# -- two processes -------------------------------------------------------------------------------

OPTIONS = [
    ("batch", {}),
    ("batch", {"weighting": "none"}),
    ("batch", {"cost": "rbf"}),
    ("batch", {"loss": "infonce"}),
    ("queue", {}),
    ("queue", {"weighting": "without_w2"}),
    ("queue", {"loss": "infonce"}),
    ("momentum", {"cost": "rbf"}),
    ("momentum", {"cost": "rbf", "loss": "infonce"}),
    ("momentum", {"cost": "euclidean", "reduction": "sum"}),
]


@pytest.mark.parametrize(("host", "options"), OPTIONS)
def test_negatives_of_all_ranks_count(two_ranks, host, options):
    """The mean over two ranks is the loss of the global batch; without gathering it is not."""
    z, keys = random_views(3, 6), random_views(3, 6, seed=1)
    expected = float(objective_value(host, z, keys, **options))
    actual = two_ranks.run(one_rank_loss, host=host, **options)
    if options.get("reduction") == "sum":
        actual = [2 * value for value in actual]  # a sum over the rows of a device
    assert sum(actual) / 2 == pytest.approx(expected, abs=1e-10)
    local = float(objective_value(host, z[:, :3], keys[:, :3], **options, gather=False))
    assert abs(local - expected) > 1e-4


@pytest.mark.parametrize("host", ["batch", "queue"])
@pytest.mark.parametrize("rows", [3, 17])
def test_blocked_and_dense_agree_for_odd_sizes(host, rows):
    """Forward and backward of the tiled path on the CPU."""
    actual = []
    for backend in ("dense", "blocked"):
        z = random_views(3, rows).requires_grad_()
        loss = objective_value(host, z, random_views(3, rows, seed=1), loss_backend=backend)
        loss.backward()
        actual.append((loss, z.grad))
    for left, right in zip(*actual, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)
