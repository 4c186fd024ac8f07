"""Golden values, and checklist items 1 to 6, 10 and 12 on the module."""

from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.engine.optim import lr_at
from projects.contriever.config import Config
from tests.projects.contriever.conftest import (
    GOLDEN,
    batch,
    config,
    golden_module,
    module_of,
    tokens,
)
from tests.projects.contriever.workers import three_steps
from tests.unit.losses.golden import assert_close


def explicit(query, key, queue, tau, smoothing=0.0):
    """Cross entropy over logit 0, the positive, and the queue."""
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / tau
    return F.cross_entropy(
        logits, torch.zeros(len(query), dtype=torch.long), label_smoothing=smoothing
    )


@pytest.mark.parametrize("case", GOLDEN["moco"])
@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_item_14_two_steps_with_key_encoder_and_queue_equal_the_golden_values(case, backend):
    """Checklist 14 and 3, 4: loss, gradients, queue and key encoder over two steps."""
    module = golden_module(case["config"])
    module.objective.loss.backend = backend
    table, copy = module.encoder.tower.weight, module.momentum_encoder.network.weight
    for number, expected in enumerate(case["steps"]):
        table.grad = None
        rows = {"query": tokens(4, 1 + number), "key": tokens(4, 5 + number)}
        loss = module.losses(rows)["loss"]
        loss.backward()
        assert_close(loss, expected["loss"])
        assert_close(table.grad.norm(), expected["grad_norm_E_q"])
        assert_close(table.grad, expected["grad_first4"])
        assert copy.grad is None
        assert expected["grad_E_k_is_none"]
        assert_close(copy, expected["E_k_first4"])
        with torch.no_grad():
            table -= 0.1 * table.grad
        module.after_optimizer_step()
        assert int(module.queue.position) == expected["queue_ptr"]
        assert_close(module.queue.features.T.contiguous(), expected["queue_first6"])
        assert_close(module.queue.features.abs().sum(), expected["queue_abs_sum"])


def test_item_14_twin_in_batch_negatives_miss_the_golden_value():
    """The comparison can fail: with the keys of the batch as negatives the loss is another."""
    case = GOLDEN["moco"][1]
    module = golden_module(case["config"])
    module.objective.loss.in_batch = True
    actual = module.losses({"query": tokens(4, 1), "key": tokens(4, 5)})["loss"]
    assert abs(float(actual) - case["steps"][0]["loss"]) > 0.05


@pytest.mark.parametrize("case", GOLDEN["inbatch"])
def test_item_14_golds_and_negatives_equal_the_golden_values(case):
    """Checklist 14: the loss of the fine-tuning, golds then negatives as keys."""
    module = golden_module(case, finetune=True)
    loss = module.losses({"query": tokens(4, 1), "key": tokens(8, 5)})["loss"]
    loss.backward()
    assert_close(loss, case["loss"])
    table = module.encoder.tower.weight
    assert_close(table.grad.norm(), case["grad_norm_E"])
    assert_close(table.grad, case["grad_first4"])


@pytest.mark.parametrize("case", GOLDEN["warmup_linear"])
def test_item_14_schedule_equals_the_golden_values(case):
    """Checklist 14: the released warm-up, which ends at 1 - ratio."""
    for step, expected in case["multiplier"].items():
        actual = lr_at(
            int(step),
            lr=2.0,
            total_steps=case["total"],
            warmup_steps=case["warmup"],
            final_lr=2.0 * case["ratio"],
            schedule="warmup_linear",
        )
        assert actual / 2 == pytest.approx(expected, rel=1e-6)


def test_item_1_the_denominator_has_the_positive_and_the_queue_alone():
    """Checklist 1 and 5: 1 + K terms; keys of the batch neither as mates nor in the queue."""
    words = ["model.dropout=0.0", "method.queue_size=16", "method.temperature=1"]
    module = module_of(*words).double()
    for number in range(4):
        rows = batch(seed=number)
        before = module.queue.features.clone()
        assert module.queue.features.shape[0] == module.negatives_per_query(4) == 16
        query = module.encoder(**rows["query"])
        terms = module.losses(rows)
        keys = module._new_keys[0]
        torch.testing.assert_close(terms["loss"], explicit(query, keys, before, 1.0))
        assert torch.equal(module.queue.features, before)  # nothing is written before the loss
        module.after_optimizer_step()
        place = 4 * number % 16
        assert torch.equal(module.queue.features[place : place + 4], keys)
        with_mates = explicit(query, keys, torch.cat([before, keys]), 1.0)
        assert abs(float(with_mates - terms["loss"])) > 1e-3  # the twin


def test_item_2_no_gradient_reaches_the_key_side():
    """Checklist 2: frozen, without gradient, in no group of the optimiser."""
    module = module_of()
    module.losses(batch())["loss"].backward()
    frozen = list(module.momentum_encoder.parameters())
    assert frozen
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    assert not module.queue.features.requires_grad
    trained = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert not trained & {id(p) for p in frozen}
    assert trained == {id(p) for p in module.encoder.parameters()}
    assert all(p.grad is not None for p in module.encoder.parameters())


def test_every_parameter_is_decayed_as_in_the_release():
    """One group with biases and norms, in both stages."""
    for module in (
        module_of("optim.weight_decay=0.3"),
        module_of("optim.weight_decay=0.3", finetune=True),
    ):
        (group,) = module.parameter_groups()
        assert group["weight_decay"] == 0.3
        assert sum(p.ndim < 2 for p in group["params"]) > 10
        assert len(group["params"]) == len(list(module.encoder.parameters()))


def test_logits_are_exact_under_mixed_precision():
    """Free lengths over tau = 0.05: 16-bit operands would round the logits."""
    with mock.patch("torch.is_autocast_enabled", return_value=True):
        assert module_of().objective.loss.kernel["precision"] == "exact"


def test_item_3_the_key_encoder_moves_once_a_step_before_it_encodes():
    """Checklist 3: with the query weights from before the step, and once for two batches of it."""
    module = module_of("method.momentum=0.75", "model.dropout=0.0")
    with torch.no_grad():
        module.encoder.tower.model.embeddings.word_embeddings.weight.add_(1.0)
    own = module.momentum_encoder.network.model.embeddings.word_embeddings.weight
    expected = own + 0.25
    module.losses(batch())
    torch.testing.assert_close(own, expected)
    again = module.momentum_encoder(*batch()["key"].values())
    torch.testing.assert_close(module._new_keys[0], again)  # encoded after the move
    module.losses(batch(seed=1))  # of the same optimiser step
    torch.testing.assert_close(own, expected)
    module.after_optimizer_step()
    module.losses(batch(seed=2))
    assert not torch.allclose(own, expected)


@pytest.mark.parametrize(("option", "random"), [("true", True), ("false", False)])
def test_keys_are_computed_with_dropout_unless_switched_off(option, random):
    """The released behaviour, and what its option name promises."""
    module = module_of(f"method.key_encoder_dropout={option}", "model.dropout=0.5")
    first, second = (module.keys(batch()["key"]) for _ in range(2))
    assert torch.equal(first, second) != random
    assert module.momentum_encoder.training


def test_item_6_a_queue_that_batches_do_not_fill_is_refused():
    """Checklist 6: when the config is read, and when devices are known only at the start."""
    for words in (["data.batch_size=7"], ["trainer.devices=3"], ["trainer.num_nodes=5"]):
        with pytest.raises(UserError, match="not a multiple of the global batch"):
            config(*words)
    assert isinstance(config("trainer.devices=2"), Config)
    assert isinstance(config("data.batch_size=7", "method.objective=in_batch"), Config)
    module = module_of("trainer.devices=auto")
    module.global_batch_size = 8 * 3
    with pytest.raises(UserError, match="global batch of 24 keys"):
        module.on_fit_start()
    module.global_batch_size = 8 * 4
    module.on_fit_start()


@pytest.mark.parametrize("norm", [False, True])
def test_item_10_vectors_keep_their_length_unless_configured(norm):
    """Checklist 10: in the loss, in the queue and in what is searched with."""
    from projects.contriever.stages import recipe_of

    flag = str(norm).lower()
    words = [f"method.norm_query={flag}", f"method.norm_document={flag}"]
    module = module_of(*words)
    module.losses(batch())
    module.after_optimizer_step()
    recipe = recipe_of(config(*words))
    assert recipe.metric == "dot"
    stored = module.queue.features[:4]
    for rows in (
        stored,
        recipe.queries(module.encoder, ["a b"]),
        recipe.documents(module.encoder, ["a"]),
    ):
        assert torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-5) == norm


def test_item_4_twin_keys_of_one_rank_are_another_queue(two_ranks):
    """The comparison above can fail: without gathering the ranks' queues differ."""
    first, second = two_ranks.run(three_steps, objective="moco", distributed=True, own_queue=True)
    assert not torch.equal(first["queue.features"], second["queue.features"])
