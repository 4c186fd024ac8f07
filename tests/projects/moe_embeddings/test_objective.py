"""Losses against golden values and sums by hand; gradients of experts; two processes against
one."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from projects.moe_embeddings.objective import Objective, soft_targets
from tests.projects.moe_embeddings.conftest import GOLDEN, batch_of, config, module_of
from tests.projects.moe_embeddings.workers import two_steps
from tests.unit.losses.golden import assert_close, fill, grad_norm

NAMES = {
    "mnr": [],
    "mnr_plus": [],
    "clip_temp0.7": ["method.temperature=0.7"],
    "clip_temp1.0": ["method.temperature=1.0"],
}


def objective_of(name, *words):
    kind = name.removesuffix("_normalised")
    normal = f"method.normalize={str(name != kind).lower()}"
    loss = f"method.loss={kind.split('_temp')[0]}"
    return Objective(config(loss, normal, *NAMES[kind], *words).method).double()


@pytest.mark.parametrize("case", GOLDEN["losses"], ids=lambda c: f"{c['loss_name']}-{c['B']}")
def test_checklist_6_losses_and_targets_equal_the_golden_values(case):
    """Checklist 6: value, gradients, and which documents the batch itself names as targets."""
    shape = case["B"], case["d"]
    a, b = (fill(shape, phase).detach() * case["scale"] for phase in (0.2, 1.7))
    a.requires_grad_(), b.requires_grad_()
    out = objective_of(case["loss_name"])(a, b)
    out.loss.backward()
    assert_close(out.loss, case["loss"])
    assert_close(grad_norm(a), case["grad_norm_a"])
    assert_close(grad_norm(b), case["grad_norm_b"])
    assert_close(a.grad, case["grad_a_first4"])
    assert_close(out.per_sample.mean(), case["loss"])
    if "normalised" not in case["loss_name"] and "0.7" not in case["loss_name"]:
        rows, columns = soft_targets(a, b)
        assert rows.tolist() == case["soft_target_argmax_rows"]
        assert columns.tolist() == case["soft_target_argmax_cols"]


def test_checklist_6_targets_are_constants_and_one_points_to_another_document():
    """Checklist 6: no gradient through T; the diagonal as target gives another loss (n = 8)."""
    a, b = (fill((8, 5), phase, 0.5) for phase in (0.2, 1.7))
    rows, columns = soft_targets(a, b)
    assert not rows.requires_grad
    assert rows.tolist() == list(range(8))
    assert columns.tolist() == [0, 1, 2, 4, 4, 5, 6, 7]
    s, diagonal = a @ b.T, torch.arange(8)
    plain = (F.cross_entropy(s, diagonal) + F.cross_entropy(s.T, diagonal)) / 2
    by_hand = (F.cross_entropy(s, rows) + F.cross_entropy(s.T, columns)) / 2
    actual = objective_of("mnr_plus")(a, b).loss
    torch.testing.assert_close(actual, by_hand)
    assert abs(float(actual - plain)) > 1e-3


def test_checklist_6_a_learned_temperature_has_the_golden_gradient_and_stays_positive():
    objective = objective_of("clip_temp0.7", "method.learn_temperature=true")
    objective.temperature.data.fill_(0.7)  # 0.7 in float32 before
    a, b = (fill((4, 6), phase).detach() for phase in (0.2, 1.7))
    objective(a, b).loss.backward()
    assert_close(objective.temperature.grad, GOLDEN["clip_temperature_grad_at_0.7(B=4,d=6)"])
    objective.temperature.data.fill_(-1.0)
    objective.clamp_()
    assert float(objective.temperature) == pytest.approx(0.01)
    fixed = objective_of("clip_temp0.7")
    assert not list(fixed.parameters())
    fixed.temperature.fill_(0.005)
    fixed.clamp_()
    assert float(fixed.temperature) == pytest.approx(0.005)  # as it was given
    assert "temperature" in fixed.state_dict()


@pytest.mark.parametrize("kind", ["cosine", "learned"])
def test_cosine_and_temperature_combine_with_every_loss(kind):
    """Sheet, decision on the loss: options for cosines and a temperature, learned or not."""
    a, b = fill((4, 6), 0.2).detach(), fill((4, 6), 1.7).detach()
    words = ["method.temperature=0.5", f"method.learn_temperature={str(kind == 'learned').lower()}"]
    for name in ("mnr", "mnr_plus"):
        actual = objective_of(f"{name}_normalised", *words)(a, b).loss
        s = 2 * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
        target = torch.arange(4)
        there, back = F.cross_entropy(s, target), F.cross_entropy(s.T, target)
        torch.testing.assert_close(actual.detach(), there if name == "mnr" else (there + back) / 2)


def test_half_precision_is_compared_in_float32():
    """Sheet, pitfall: dot products of 768 dimensions are large."""
    a, b = (fill((4, 6), phase).detach().half() * 200 for phase in (0.2, 1.7))
    out = objective_of("mnr_plus")(a, b)
    assert out.loss.dtype == torch.float32
    assert torch.isfinite(out.loss)
    with torch.autocast("cpu", torch.bfloat16):
        again = objective_of("mnr_plus")(a, b).loss
    assert torch.equal(out.loss, again)


def test_checklist_2_only_the_assigned_expert_learns_from_a_document():
    """Checklist 2: zero gradient for idle experts; the others' is that of their own documents."""
    module, cfg = module_of("model.dropout=0", "model.attention_dropout=0"), config()
    batch = batch_of(module, cfg, [0, 1, 60, 2])  # domains 0, 0, 1, 0
    module.losses(batch)["loss"].backward()
    layers = [m for m in module.encoder.model.modules() if hasattr(m, "experts")]
    assert len(layers) == 2
    for layer in layers:
        sums = [
            sum(float(p.grad.abs().sum()) for p in expert.parameters()) for expert in layer.experts
        ]
        assert sums[0] > 0
        assert sums[1] > 0
        assert sums[2] == 0  # zero, not missing: DDP waits for every gradient


def test_router_losses_are_weighted_and_named():
    """Sheet, A: balance, mutual information with gradient, its table for parity, given experts."""
    for words, name, gradient in (
        (["method.balance_weight=0.05"], "balance", True),
        (["method.router_loss=mutual_information"], "information", True),
        (
            ["method.router_loss=mutual_information", "method.detached_mi=true"],
            "information",
            False,
        ),
        (["method.router_loss=specified"], "specified", True),
    ):
        words = ["model.routing=sentence", *words]
        module = module_of(*words)
        terms = module.losses(batch_of(module, config(*words), [0, 60, 120, 1]))
        assert terms[name].requires_grad == gradient
        torch.testing.assert_close(terms["loss"], terms["contrast"] + terms[name])
        if name == "information":
            assert -0.011 * 1.1 < float(terms[name]) < 0.02


def test_twin_negatives_of_one_rank_are_another_objective(two_ranks):
    """The comparison can fail; ``method.gather=false`` is the released objective."""
    words = ["method.gather=false"]
    whole = two_steps(words, distributed=False)
    actual = two_ranks.run(two_steps, words=words, distributed=True)[0]
    assert any(not torch.allclose(actual[name], value, rtol=1e-6) for name, value in whole.items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method.loss=clip"], "needs method.temperature"),
        (["method.learn_temperature=true"], "where it begins"),
        (["method.balance_weight=0.1"], "losses of the router need"),
        (["model.routing=switch"], "trains its router by"),
        (["model.num_experts=2"], "enforced routing has 3 domains"),
        (
            ["model.routing=token", "model.num_experts=2", "method.router_loss=specified"],
            "expert for every",
        ),
        (["model.routing=token", "data.domains=[a]", "method.balance_weight=0.1"], "larger than"),
        (["model.routing=dense", "model.block=gated"], "need experts"),
        (["model.routing=token", "model.num_experts=2", "model.top_k=3"], "larger than"),
        (["data.domains=[a, a]"], "each once"),
        (["data.domains=[a, A]"], "each once"),  # one token
        (["data.domains=[a, home]"], "name of a mean"),
        (["data.domains=[a, all]"], "name of a mean"),
        (["data.train_domains=[x]"], "is not in data.domains"),
        (["data.source=files"], "needs a folder in data.paths"),
        (["data.source=bundled"], "bundled domains are"),
        (["method.patience=2", "trainer.val_every_n_steps=null"], "needs trainer.val_every"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        config(*words)
