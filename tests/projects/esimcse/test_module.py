"""Loss, queue and momentum encoder: golden values and checklist items 3 to 13."""

import pytest
import torch
from torch.nn import functional as F

from common.encoders.queue import GrowingQueue
from tests.projects.esimcse.conftest import GOLDEN, batch, module_of, queue_wave, wave
from tests.projects.esimcse.workers import three_steps

CASES = [pytest.param(c, id=f"B{c['B']}-Q{c['queue_size']}") for c in GOLDEN["loss_cases"]]


def close(found, wanted):
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    found = torch.as_tensor(found, dtype=torch.float64).detach().flatten()[: wanted.numel()]
    torch.testing.assert_close(found.view_as(wanted), wanted, rtol=1e-6, atol=1e-10)


def golden_module(case, *overrides):
    """A module of the case's temperature that holds the golden queue."""
    module = module_of(f"method.temperature={case['temperature']}", *overrides)
    module.queue = None
    if case["queue_size"]:
        module.queue = GrowingQueue(case["queue_size"], case["d"]).double()
        module.queue.enqueue(queue_wave(case["queue_size"], case["d"]))
    return module


def explicit(anchor, positive, queue=None, tau=0.05):
    """Row-wise cross entropy of the concatenated cosines."""
    columns = positive if queue is None else torch.cat([positive, queue])
    logits = F.normalize(anchor, dim=1) @ F.normalize(columns, dim=1).T / tau
    return F.cross_entropy(logits, torch.arange(len(anchor)))


def step(module, number=0, **options):
    """One step without an optimiser; the loss."""
    loss = module.losses(batch(seed=number, **options))["loss"]
    module.after_optimizer_step()
    return loss


# -- loss ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_item_12_loss_and_gradients_equal_the_golden_values(case):
    """Checklist 12: with and without queue, in float64."""
    anchor, positive = wave(case["B"], 2, case["d"])
    loss = golden_module(case).objective(anchor, positive).loss
    loss.backward()
    expected = case["outputs"]
    close(loss, expected["loss"])
    close(anchor.grad.norm(), expected["grad_norm_anchor"])
    close(positive.grad.norm(), expected["grad_norm_positive"])
    close(anchor.grad[0], expected["grad_anchor_row0_first5"])
    close(positive.grad[1], expected["grad_positive_row1_first5"])


def test_item_12_twin_another_temperature_misses_the_golden_value():
    """The comparison with the golden values can fail."""
    case = {**GOLDEN["loss_cases"][1], "temperature": 0.07}
    actual = golden_module(case).objective(*wave(case["B"], 2, case["d"])).loss
    assert abs(float(actual) - case["outputs"]["loss"]) > 0.1


def test_item_3_without_repetition_and_queue_it_is_simcse():
    """Checklist 3: cross entropy of the cosines of two dropout passes, both through the head."""
    module = module_of("repetition.level=none", "queue.size=0").double()
    assert module.queue is module.momentum_encoder is None
    rows = batch(extra=0)
    torch.manual_seed(7)
    actual = module.losses(rows)["loss"]
    torch.manual_seed(7)
    anchor, positive = module.encoder(rows["input_ids"], rows["attention_mask"]).chunk(2)
    assert not torch.equal(anchor, positive)  # dropout
    torch.testing.assert_close(actual, explicit(anchor, positive), rtol=1e-12, atol=1e-12)
    queued = module_of().double()
    torch.manual_seed(7)
    first = queued.losses(rows)["loss"]  # the queue is empty at the first step
    torch.testing.assert_close(actual, first, rtol=1e-12, atol=1e-12)


# -- queue ---------------------------------------------------------------------------------------


def test_item_4_the_queue_holds_earlier_batches_only():
    """Checklist 4: empty at step 1, then min(Q, (t-1) B) rows; each loss sees exactly those."""
    apart = "model.config.initializer_range=0.3"  # embeddings that differ from row to row
    module = module_of("queue.size=10", "momentum.decay=1.0", "model.dropout=0.0", apart).double()
    earlier = torch.empty(0, module.encoder.num_features, dtype=torch.float64)
    for number in range(5):
        rows = batch(seed=number)
        filled = 0 if module.queue.rows() is None else len(module.queue.rows())
        assert filled == min(10, 4 * number)
        z = module.encoder(rows["input_ids"], rows["attention_mask"]).chunk(2)
        keys = module.keys(rows["input_ids"][:4], rows["attention_mask"][:4])
        expected = explicit(*z, earlier)
        actual = step(module, number)
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
        own = explicit(*z, torch.cat([earlier, keys])[-10:])  # the twin: with the batch's own keys
        assert abs(float(own - expected)) > 1e-3
        earlier = torch.cat([earlier, keys])[-10:]
    assert module.negatives_per_query(4) == 13


def test_item_5_the_oldest_keys_are_dropped_first():
    """Checklist 5: rows enter with the batch's number; those of the last Q survive."""
    queue = GrowingQueue(5, 2)
    rows = [torch.tensor([[1.0, float(i)]]) for i in range(12)]
    for i in range(0, 12, 2):
        queue.enqueue(torch.cat(rows[i : i + 2]))
        kept = range(max(0, i - 3), i + 2)
        expected = {round(float(F.normalize(rows[k], dim=1)[0, 1]), 5) for k in kept}
        assert {round(float(v), 5) for v in queue.rows()[:, 1]} == expected
    whole = GrowingQueue(5, 2)
    whole.enqueue(torch.cat(rows))
    assert {round(float(v), 5) for v in whole.rows()[:, 1]} == expected
    assert len(whole.rows()) == 5


def test_item_6_no_gradient_reaches_keys_queue_and_momentum_encoder():
    """Checklist 6: none on the stored side; through queue logits only anchors get gradient."""
    module = module_of("queue.size=8")
    rows = batch()
    assert not module.keys(rows["input_ids"][:4], rows["attention_mask"][:4]).requires_grad
    step(module)
    loss = step(module, 1)
    loss.backward()
    assert not module.queue.features.requires_grad
    assert all(p.grad is None and not p.requires_grad for p in module.momentum_encoder.parameters())
    assert all(p.grad is not None for p in module.encoder.parameters() if p.requires_grad)

    case = GOLDEN["loss_cases"][1]
    anchor, positive = wave(case["B"], 2, case["d"])
    queue = queue_wave(case["queue_size"], case["d"])
    logits = [F.normalize(anchor, dim=1) @ F.normalize(positive, dim=1).T]
    logits += [F.normalize(anchor.detach(), dim=1) @ F.normalize(queue, dim=1).T]
    stopped = F.cross_entropy(torch.cat(logits, 1) / 0.05, torch.arange(case["B"]))
    expected = torch.autograd.grad(stopped, (anchor, positive))
    actual = torch.autograd.grad(
        golden_module(case).objective(anchor, positive).loss, (anchor, positive)
    )
    torch.testing.assert_close(actual[1], expected[1])
    assert float((actual[0] - expected[0]).norm()) > 0.1


# -- momentum encoder ----------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_item_7_keys_know_no_dropout_and_training_mode_comes_back(decay):
    """Checklist 7: equal keys for any random state, which stays untouched; dropout then acts."""
    module = module_of(f"momentum.decay={decay}")
    assert (module.momentum_encoder is None) == (decay == 0)
    rows = batch()
    ids, mask = rows["input_ids"][:4], rows["attention_mask"][:4]
    modes = {name: part.training for name, part in module.named_modules()}
    assert all(modes.values())
    state = torch.get_rng_state()
    first = module.keys(ids, mask)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(first, module.keys(ids, mask))
    assert modes == {name: part.training for name, part in module.named_modules()}
    assert not torch.equal(module.encoder(ids, mask), module.encoder(ids, mask))  # the twin


def test_item_7_keys_are_momentum_states_under_the_online_head():
    """The head's present weights act on the keys; the momentum copy has none."""
    module = module_of("momentum.decay=1.0")
    rows = batch()
    ids, mask = rows["input_ids"][:4], rows["attention_mask"][:4]
    assert module.momentum_encoder.network.cls_head is None
    head = module.encoder.tower.cls_head
    states = module.encoder.tower.model.eval()(input_ids=ids, attention_mask=mask)
    expected = head(states.last_hidden_state[:, 0])
    torch.testing.assert_close(module.keys(ids, mask), expected.detach())
    with torch.no_grad():
        head[0].weight.mul_(2)
        module.encoder.tower.model.embeddings.word_embeddings.weight.mul_(2)  # not in the copy
    expected = head(states.last_hidden_state[:, 0])
    torch.testing.assert_close(module.keys(ids, mask), expected.detach())


@pytest.mark.parametrize("order", ["before_step", "after_step"])
def test_item_8_the_gap_shrinks_by_the_decay_once_per_step(order):
    """Checklist 8: lambda^k after k steps at constant weights, also with two batches a step."""
    module = module_of(f"momentum.order={order}", "momentum.decay=0.995").double()
    own = module.encoder.tower.model.embeddings.word_embeddings.weight
    copy = module.momentum_encoder.network.model.embeddings.word_embeddings.weight
    with torch.no_grad():
        own.add_(1.0)
    for number in range(1, 6):
        module.losses(batch(seed=number))
        module.losses(batch(seed=10 + number))
        inside = 0.995 ** (number if order == "before_step" else number - 1)
        torch.testing.assert_close(own - copy, torch.full_like(own, inside), rtol=1e-9, atol=0)
        module.after_optimizer_step()
        expected = torch.full_like(own, 0.995**number)
        torch.testing.assert_close(own - copy, expected, rtol=1e-9, atol=0)
    assert len(module.queue.rows()) == 20  # both batches of a step entered


def test_item_9_the_copy_starts_at_the_encoder_s_weights():
    """Checklist 9: equal after loading; momentum.init=random starts elsewhere."""
    module, released = module_of(), module_of("momentum.init=random")
    own = dict(module.backbone().named_parameters())
    for name, value in module.momentum_encoder.network.named_parameters():
        assert torch.equal(value, own[name]), name
    name = "model.encoder.layer.0.attention.self.query.weight"
    other = dict(released.momentum_encoder.network.named_parameters())
    assert other.keys() == own.keys()
    start = dict(released.backbone().named_parameters())[name]
    assert torch.equal(start, own[name])
    assert not torch.allclose(other[name], start)
    assert other[name].std() == pytest.approx(0.02, rel=0.1)


def test_without_second_network_keys_are_those_of_the_online_encoder():
    """momentum.decay=0 equals a momentum encoder that has just been copied."""
    rows = batch()
    ids, mask = rows["input_ids"][:4], rows["attention_mask"][:4]
    torch.testing.assert_close(
        module_of("momentum.decay=0").keys(ids, mask), module_of().keys(ids, mask)
    )


def test_item_10_optimiser_has_the_encoder_alone_and_the_state_all():
    """Checklist 10: momentum encoder and queue in the state dict, not in the optimiser."""
    module = module_of()
    trained = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert trained == {id(p) for p in module.encoder.parameters()}
    names = module.state_dict().keys()
    assert {"queue.features", "queue.position", "queue.filled"} <= names
    assert any(name.startswith("momentum_encoder.") for name in names)
    assert not any(
        n.startswith(("queue", "momentum")) for n in module_of("queue.size=0").state_dict()
    )


def test_item_11_evaluation_is_the_raw_state_of_the_online_encoder():
    """Checklist 11: [CLS] without head, whatever queue and momentum copy hold."""
    module = module_of()
    text = "the men work in the new world"
    rows = module.encoder.tokenize([text])
    with torch.no_grad():
        for parameter in module.momentum_encoder.parameters():
            parameter.zero_()
        states = module.encoder.tower.model.eval()(**rows).last_hidden_state[0, 0]
        trained = module.encoder.train()(**rows)[0]
    torch.testing.assert_close(module.encoder.encode([text])[0], states)
    assert not torch.allclose(trained, states, atol=1e-2)  # the twin: the head acts in training


def test_item_13_twin_queues_of_their_own_would_differ(two_ranks):
    """The comparison can fail: as released, each rank queues its own keys only."""
    expected = three_steps(0.9, distributed=False)
    actual = two_ranks.run(three_steps, decay=0.9, distributed=True, own_queue=True)
    assert not torch.allclose(actual[0]["queue.features"], actual[1]["queue.features"], atol=1e-4)
    for state in actual:
        assert int(state["queue.filled"]) == 12  # of 20 keys
        assert not torch.allclose(state["losses"], expected["losses"], rtol=1e-6)


def test_mean_pooling_has_no_head():
    """Keys are then the pooled states."""
    module = module_of("model.pooling=avg", "model.mlp_only_train=false")
    rows = batch()
    ids, mask = rows["input_ids"][:4], rows["attention_mask"][:4]
    torch.testing.assert_close(module.keys(ids, mask), module.encoder.eval()(ids, mask).detach())
