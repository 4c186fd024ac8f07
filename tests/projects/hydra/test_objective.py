"""The pair loss: golden values, masks, denominators, ranks (checklist items 2-6, 8-11)."""

import pytest
import torch
import torch.nn.functional as F

from common.data.samplers import sample_rng
from common.losses.functional.gated_pairs import (
    dense_pair_loss,
    gated_logits,
    pair_masks,
    per_positive_loss,
)
from common.losses.multi_positive import HydraLoss
from projects.hydra.class_pairs import partner_labels
from projects.hydra.data import build_data
from projects.hydra.gates import bernoulli_entropy
from tests.projects.hydra.conftest import (
    GOLDEN,
    FixedGate,
    batch_of,
    config,
    golden_inputs,
    module_of,
)
from tests.projects.hydra.workers import pair_run


def assert_golden(x, gate, loss, wanted):
    loss.backward()
    close = {"rtol": 1e-6, "atol": 1e-12}
    pairs = {
        "loss": loss.detach(),
        "grad_norm_x": x.grad.norm(),
        "grad_norm_gate": gate.grad.norm(),
        "grad_x_first4": x.grad.flatten()[:4],
        "grad_gate_first4": gate.grad.flatten()[:4],
    }
    for name, actual in pairs.items():
        torch.testing.assert_close(actual, torch.tensor(wanted[name]).double(), **close)


@pytest.mark.parametrize("case", GOLDEN)
def test_item_2_module_reproduces_the_golden_values(case):
    """Item 2: the project's own objective gives the official loss, gradients and activation."""
    x, labels, partners, gate = golden_inputs(case)
    module = module_of("method.exclude_self=false")
    module.network.gate = FixedGate(gate)
    scale = torch.tensor(1 / case["temperature"], dtype=torch.float64)
    terms = module.gated_pairs(x, None, {"labels": labels, "partner_labels": partners}, scale)
    assert_golden(x, gate, terms["objective"], case["outputs"])
    expected = case["outputs"]["gate_activation_mean_sum"]
    assert float(terms["gate_activation"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", GOLDEN)
def test_item_2_dense_form_reproduces_the_golden_values(case):
    """Item 2: so does the form on explicit logits; and the masks have the recorded sizes."""
    x, labels, partners, gate = golden_inputs(case)
    loss = dense_pair_loss(x, x, gate, labels, partners, 1 / case["temperature"])
    assert_golden(x, gate, loss, case["outputs"])
    masks = pair_masks(labels, partners, labels)
    assert int(masks.positives.sum()) == case["outputs"]["n_positive_entries"]
    assert int(masks.negatives.sum()) == case["outputs"]["n_negative_entries"]


def test_item_2_logit_is_the_sum_over_gated_coordinates():
    """Item 2: l_ij = sum_k z_ik g_ik^2 z_jk / tau; a gate used once only gives other values."""
    z, gate = F.normalize(torch.randn(5, 4), dim=1), torch.rand(5, 4)
    logits = gated_logits(z, z, gate, 1 / 0.1)
    for i in range(5):
        for j in range(5):
            expected = sum(z[i, k] * gate[i, k] ** 2 * z[j, k] for k in range(4)) / 0.1
            assert float(logits[i, j]) == pytest.approx(float(expected), abs=1e-5)
    assert not torch.allclose(logits, 10 * (z * gate) @ z.T, atol=1e-3)


def test_item_3_classes_of_the_pair_are_no_negatives():
    """Item 3: moving samples of the own class changes nothing; of a third class, it does."""
    torch.manual_seed(0)
    labels, partners = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 2, 0, 1, 0])
    z, gate = F.normalize(torch.randn(5, 6), dim=1), torch.rand(5, 6)
    masks = pair_masks(labels, partners, labels)
    assert not bool((masks.negatives & (labels[:, None] == labels)).any())
    assert not bool((masks.negatives & (partners[:, None] == labels)).any())

    def row(keys):
        return per_positive_loss(gated_logits(z, keys, gate, 5.0), masks)[0][0]

    for j, matters in ((1, False), (2, True), (3, True)):  # own class, partner class, third class
        moved = z.clone()
        moved[j] = -moved[j]
        assert torch.allclose(row(moved), row(z)) != matters


def test_item_4_each_positive_stands_alone_against_the_negatives():
    """Item 4: the loss is the mean of two-part cross entropies; other positives never enter."""
    torch.manual_seed(0)
    labels, partners = torch.arange(12) % 4, (torch.arange(12) + 1) % 4
    z, gate = F.normalize(torch.randn(12, 6), dim=1), torch.rand(12, 6)
    logits, masks = gated_logits(z, z, gate, 5.0), pair_masks(labels, partners, labels)
    terms = []
    for i in range(12):
        negatives = logits[i][masks.negatives[i]]
        for j in masks.positives[i].nonzero()[:, 0]:
            own = torch.cat([logits[i, j][None], negatives])
            terms.append(F.cross_entropy(own[None], torch.tensor([0])))
    expected = torch.stack(terms).mean()
    actual = HydraLoss(exclude_self=False)(z, gate, labels, partners, 5.0).loss
    assert torch.allclose(actual, expected, rtol=1e-5)
    assert torch.allclose(dense_pair_loss(z, z, gate, labels, partners, 5.0), expected, rtol=1e-5)


def test_item_5_identical_pairs_with_an_open_gate_are_supcon_with_separate_denominators():
    """Item 5: equal to SupCon in which other positives are left out, unlike SupCon itself."""
    torch.manual_seed(0)
    labels = torch.arange(12) % 3
    z = F.normalize(torch.randn(12, 6), dim=1)
    actual = HydraLoss()(z, torch.ones(12, 6), labels, labels, 5.0).loss
    logits, terms = 5.0 * z @ z.T, []
    for i in range(12):
        negatives = logits[i][labels != labels[i]].exp().sum()
        for j in range(12):
            if j != i and labels[j] == labels[i]:
                terms.append((logits[i, j].exp() + negatives).log() - logits[i, j])
    assert torch.allclose(actual, torch.stack(terms).mean(), rtol=1e-5)
    from common.losses.multi_positive import SupConLoss

    assert not torch.allclose(actual, SupConLoss()(z, labels, 5.0).loss, rtol=1e-3)


def test_item_6_arbitrary_partners_are_a_permutation_in_every_training_batch():
    """Item 6: so every partner class is in the batch; distinct pairs are another set."""
    data = build_data(config())
    for epoch in range(3):
        batch = data.train_set[[(i, epoch) for i in range(32)]]
        assert torch.equal(batch["labels"].sort().values, batch["partner_labels"].sort().values)
        assert not torch.equal(batch["labels"], batch["partner_labels"])
    labels = torch.tensor([0, 0, 0, 1])
    distinct = partner_labels(labels, "distinct", 8, sample_rng(0, 0, 0))
    assert not torch.equal(distinct.sort().values, labels)


@pytest.mark.parametrize("form", ["fused", "dense", "renormalise", "row_mean"])
def test_item_8_two_ranks_give_loss_and_gradient_of_one(two_ranks, form):
    """Item 8: keys are gathered with gradient, masks use the labels of all ranks."""
    whole = pair_run(form, 16, 6, 1)
    parts = two_ranks.run(pair_run, form=form, local=8, dim=6, world_size=2)
    assert sum(p[0] for p in parts) / 2 == pytest.approx(whole[0], rel=1e-6)
    for part in (1, 2):  # gradients of x and of the gate; DDP takes their mean
        joined = torch.cat([p[part] for p in parts]) / 2
        torch.testing.assert_close(joined, whole[part], rtol=1e-6, atol=1e-12)
    alone = pair_run(form, 8, 6, 1)  # negative twin: without the other rank it is another loss
    assert abs(alone[0] - whole[0]) > 1e-3


@pytest.mark.parametrize("options", [(), ("method.renormalise_after_gate=true",)])
def test_item_9_rows_without_positives_count_nothing(options):
    """Item 9: absent partner classes add no row; a batch without any gives a finite 0."""
    module = module_of(*options)
    batch = batch_of(classes=4)
    batch["partner_labels"] = torch.full((24,), 7)  # no sample of class 7
    terms = module.losses(batch)
    assert float(terms["objective"]) == 0.0
    terms["loss"].backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads)
    some = batch["partner_labels"].clone()
    some[:3] = (batch["labels"][:3] + 1) % 4
    z, gate = torch.randn(24, 16), torch.rand(24, 16)
    mixed = HydraLoss()(z, gate, batch["labels"], some, 10.0)
    assert not bool(mixed.per_sample[3:].any())
    assert bool((mixed.per_sample[:3] > 0).all())


def test_item_9_rows_without_negatives_have_finite_gradients():
    """Item 9: two classes leave no negatives."""
    z = torch.randn(6, 4, requires_grad=True)
    labels = torch.arange(6) % 2
    loss = dense_pair_loss(z, z, torch.rand(6, 4), labels, 1 - labels, 10.0, renormalise=True)
    loss.backward()
    assert float(loss) == 0.0
    assert torch.isfinite(z.grad).all()


def test_item_10_adding_a_constant_to_a_row_changes_nothing():
    """Item 10: also for constants that overflow a naive exponential; other changes show."""
    torch.manual_seed(0)
    labels, partners = torch.arange(12) % 4, (torch.arange(12) + 1) % 4
    masks, logits = pair_masks(labels, partners, labels), 3 * torch.randn(12, 12)
    before, _ = per_positive_loss(logits, masks)
    shift = torch.linspace(-500, 500, 12)[:, None]
    assert torch.allclose(per_positive_loss(logits + shift, masks)[0], before, rtol=1e-3)
    assert not torch.allclose(per_positive_loss(logits + shift.T, masks)[0], before, rtol=1e-1)


def test_item_11_activation_and_entropy_of_the_gates_are_logged():
    """Item 11: with their right values."""
    module = module_of()
    batch = batch_of()
    terms = module.losses(batch)
    gate = module.network.gate(batch["labels"], batch["partner_labels"])
    assert torch.allclose(terms["gate_activation"], gate.sum(1).mean(), rtol=1e-4)
    entropy = torch.distributions.Bernoulli(gate).entropy().mean()
    assert torch.allclose(terms["gate_entropy"], entropy, rtol=1e-4)
    assert {"z_std", "online_top1", "logit_scale", "positives_per_query"} <= terms.keys()
    assert float(bernoulli_entropy(torch.tensor([0.0, 1.0])).sum()) == 0.0


def test_renormalised_logits_are_cosines_in_the_subspace():
    z, gate = F.normalize(torch.randn(5, 6), dim=1), torch.rand(5, 6)
    actual = gated_logits(z, z, gate, 10.0, renormalise=True)
    query = F.normalize(z * gate, dim=1)
    key = F.normalize(z[None] * gate[:, None], dim=2)  # the (N, M, D) tensor of the paper's form
    assert torch.allclose(actual, 10 * torch.einsum("nd,nmd->nm", query, key), atol=1e-5)


def test_alpha_subtracts_the_open_similarity_and_is_learned():
    z, gate = F.normalize(torch.randn(5, 6), dim=1), torch.rand(5, 6)
    plain = gated_logits(z, z, gate, 10.0)
    actual = gated_logits(z, z, gate, 10.0, alpha=2.0)
    assert torch.allclose(actual, plain - 10 * 2 * z @ z.T, atol=1e-5)  # both are scaled
    module = module_of("method.alpha=0.5")
    module.losses(batch_of())["loss"].backward()
    assert module.alpha.grad.abs() > 0


@pytest.mark.parametrize("row_mean", [False, True])
def test_rows_weigh_by_their_positives_or_equally(row_mean):
    """`row_mean`: each row by its own number of positives, then all rows, empty ones as 0."""
    labels, partners = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([1, 2, 7, 0, 0])
    z, gate = F.normalize(torch.randn(5, 6), dim=1), torch.rand(5, 6)
    masks = pair_masks(labels, partners, labels)
    per_row, counts = per_positive_loss(gated_logits(z, z, gate, 10.0), masks)
    assert counts.tolist() == [1, 1, 0, 3, 3]
    own = per_row[0] + per_row[1] + per_row[3] / 3 + per_row[4] / 3
    expected = own / 5 if row_mean else per_row.sum() / 8
    module = module_of(f"method.row_mean={row_mean}", "method.exclude_self=false")
    module.network.gate = FixedGate(gate)
    batch = {"labels": labels, "partner_labels": partners}
    actual = module.gated_pairs(z, None, batch, torch.tensor(10.0))["objective"]
    assert torch.allclose(actual, expected, rtol=1e-5)


def test_excluding_the_sample_itself_is_a_switch():
    batch = batch_of()
    batch["partner_labels"] = batch["labels"]
    without, with_self = (
        module_of(f"method.exclude_self={flag}").losses(batch)["objective"]
        for flag in ("true", "false")
    )
    assert with_self < without - 0.05  # a sample is most similar to itself


def test_two_views_contrast_view_1_with_view_2():
    module = module_of("data.views=2").eval()
    batch = batch_of(views=2)
    query, key = module.network(batch["view_1"])[1], module.network(batch["view_2"])[1]
    labels, partners = batch["labels"], batch["partner_labels"]
    gate = module.network.gate(labels, partners)
    expected = dense_pair_loss(query, key, gate, labels, partners, module.logit_scale())
    actual = module.losses(batch)["objective"]
    assert torch.allclose(actual, expected, rtol=1e-4)


def test_two_views_may_be_positives_of_themselves_in_the_dense_form():
    """The key of a sample is its other view, which is no copy."""
    module = module_of("data.views=2", "method.row_mean=true")
    batch = batch_of(views=2)
    batch["view_2"] = batch["view_1"] + 0.1
    batch["partner_labels"] = batch["labels"]
    query, key = module.network(batch["view_1"])[1], module.network(batch["view_2"])[1]
    gate = module.network.gate(batch["labels"], batch["labels"])
    scale = module.logit_scale()
    expected, without = (
        dense_pair_loss(
            query,
            key,
            gate,
            batch["labels"],
            batch["labels"],
            scale,
            row_mean=True,
            exclude_self=exclude,
        )
        for exclude in (False, True)
    )
    actual = module.losses(batch)["objective"]
    torch.testing.assert_close(actual, expected)
    assert not torch.allclose(actual, without, rtol=1e-3)


def test_what_is_logged_is_of_the_batch():
    """Spread of a coordinate over the batch, positives of the partner class, share of hits."""
    module = module_of("online_head.weight=0.25").eval()
    batch = batch_of()
    batch["partner_labels"] = torch.where(batch["labels"] < 4, 0, 7)
    batch["labels"][:6] = 0
    module.network.head.bias.data[0] = 1e4  # the head says 0, whatever the features are
    terms = module.losses(batch)
    labels, partners = batch["labels"], batch["partner_labels"]
    projections = module.network(batch["view_1"])[1]
    torch.testing.assert_close(terms["z_std"], projections.std(dim=0).mean())
    count = sum(int((labels == partner).sum()) for partner in partners) / len(partners)
    assert float(terms["positives_per_query"]) == pytest.approx(count)
    assert float(terms["online_top1"]) == pytest.approx(float((labels == 0).float().mean()))
    torch.testing.assert_close(terms["loss"], terms["objective"] + 0.25 * terms["online_loss"])
