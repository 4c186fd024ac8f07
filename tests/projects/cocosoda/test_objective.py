"""Golden values, and checklist items 1 to 5, 11 to 13 on the module."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.mixture import source_probabilities
from common.evaluation.features.postprocessing import fit_whitening
from projects.cocosoda.objective import INTER, INTRA, KEYS, Objective
from projects.cocosoda.ranks import search_metrics
from tests.projects.cocosoda.conftest import (
    GOLDEN,
    batch,
    config,
    golden_batch,
    golden_module,
    module_of,
    tokens,
)
from tests.projects.cocosoda.workers import three_steps
from tests.unit.losses.golden import assert_close, fill


def unit(module, inputs):
    return F.normalize(module.encoder(**inputs), dim=1)


@pytest.mark.parametrize("case", GOLDEN["pretrain"])
@pytest.mark.parametrize("backend", ["dense", "blocked"])
def test_item_13_two_steps_equal_the_golden_values(case, backend):
    """Checklist 13: losses with and without the intra-modal terms, logits, gradients, queues."""
    module = golden_module(case)
    module.objective.loss.backend = backend
    table = module.encoder.tower.weight
    for number, expected in enumerate(case["steps"]):
        table.grad = None
        rows = golden_batch(number)
        with torch.no_grad():  # columns: candidates of the batch, then the queue
            columns = torch.cat([unit(module, rows["query"]), module.queues["query"].features])
            logits = unit(module, rows["code"]) @ columns.T / case["temperature"]
        assert_close(logits[0], expected["logits_row0"])
        loss = module.losses(rows)["loss"]
        loss.backward()
        assert_close(loss, expected["loss"])
        assert_close(table.grad.norm(), expected["grad_norm"])
        assert_close(table.grad[2], expected["grad_first4_of_row2"])
        with torch.no_grad():
            table -= 0.01 * table.grad
        module.after_optimizer_step()
        for name, key in (("query", "nl_queue_col0"), ("augmented_code", "masked_code_queue_col0")):
            assert_close(module.queues[name].features[0], expected[key])
        assert {int(module.queues[name].position) for name in KEYS} == {expected["ptr"]}


def test_item_13_twin_without_the_candidates_of_the_batch_misses_the_golden_value():
    """The comparison can fail: with the queue alone as negatives the loss is another."""
    case = GOLDEN["pretrain"][1]
    module = golden_module(case)
    module.objective.loss.in_batch = False
    assert abs(float(module.losses(golden_batch(0))["loss"]) - case["steps"][0]["loss"]) > 0.05


def test_items_12_and_13_fine_tuning_asks_queries_for_code_alone():
    """Checklist 12 and 13: the golden loss, scale 20; the other direction is another number."""
    module = golden_module({}, finetune=True)
    rows = {"code": tokens(4, 1), "query": tokens(3, 5)}
    loss = module.losses(rows)["loss"]
    loss.backward()
    assert_close(loss, GOLDEN["finetune"]["loss"])
    assert_close(module.encoder.tower.weight.grad.norm(), GOLDEN["finetune"]["grad_norm"])
    assert module.objective.scale == config(name="paper_finetune").finetune.logit_scale == 20
    back = module.losses({"code": rows["query"], "query": rows["code"]})["loss"]
    assert abs(float(back) - GOLDEN["finetune"]["loss"]) > 1e-3
    assert module.momentum_encoder is module.queues is None


def test_item_13_other_golden_values():
    """Checklist 13: recall buckets, probabilities of languages, whitening up to its scale."""
    ranks = [1.0, 0.5, 0.2, 0.25, 0.1, 1 / 9, 1 / 11, 0.0, 0.2, 0.1]
    actual, expected = search_metrics(ranks), GOLDEN["recall"]
    assert [actual[f"recall_at_{k}"] for k in (1, 5, 10)] == [
        expected[f"R@{k}"] for k in (1, 5, 10)
    ]
    languages = GOLDEN["language_probabilities"]
    assert_close(
        torch.tensor(source_probabilities(languages["sizes"], languages["exponent"])).double(),
        languages["prob"],
    )
    x = fill((16, 5), 0.9).detach()
    rows = fit_whitening(x)(x)
    assert_close(
        (rows @ rows.T)[0] / len(x), GOLDEN["whitening_gram_row0"]
    )  # scatter, not covariance
    assert_close((rows.T @ rows).diagonal() / len(x), GOLDEN["whitened_covariance_scatter_diag"])


def test_item_1_one_encoder_for_both_sides_and_a_frozen_average():
    """Checklist 1: both sides change with the same weight; the average is in no optimiser group."""
    module = module_of("model.dropout=0.0")
    module.losses(batch())["loss"].backward()
    frozen = list(module.momentum_encoder.parameters())
    assert frozen
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    trained = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert not trained & {id(p) for p in frozen}
    assert trained == {id(p) for p in module.encoder.parameters()}
    assert all(p.grad is not None for p in module.encoder.parameters())
    rows = batch()
    same = {"code": rows["code"], "query": rows["code"]}
    code, query = (unit(module, same[name]) for name in same)
    torch.testing.assert_close(code, query)


def test_item_1_the_average_moves_once_a_step_before_it_encodes():
    """Checklist 1: by the weights from before the step, and once for two batches of it."""
    module = module_of("method.momentum=0.75", "model.dropout=0.0")
    with torch.no_grad():
        module.encoder.tower.model.embeddings.word_embeddings.weight.add_(1.0)
    own = module.momentum_encoder.network.model.embeddings.word_embeddings.weight
    expected = own + 0.25
    module.losses(batch())
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(
        module._new[0]["augmented_code"], module.keys(batch()["augmented_code"])
    )
    module.losses(batch(seed=1))  # of the same optimiser step
    torch.testing.assert_close(own, expected)
    module.after_optimizer_step()
    module.losses(batch(seed=2))
    assert not torch.allclose(own, expected)


def explicit(anchor, key, queue, scale):
    """Cross entropy over B + K logits, the positive at the row's own place."""
    logits = scale * anchor @ torch.cat([key, queue]).T
    assert logits.shape == (len(anchor), len(key) + len(queue))
    return F.cross_entropy(logits, torch.arange(len(anchor)), reduction="none")


@pytest.mark.parametrize(("intra", "terms"), [(False, INTER), (True, INTER + INTRA)])
def test_items_2_and_3_rows_and_their_logits(intra, terms):
    """Checklist 2 and 3: B + K logits a row, the target its own place; 4 B or 6 B rows."""
    method = config(f"method.intra_modal={str(intra).lower()}", "method.temperature=0.5").method
    objective = Objective(method)
    generator = torch.Generator().manual_seed(0)
    unit_rows = lambda n: F.normalize(torch.randn(n, 5, generator=generator).double(), dim=1)  # noqa: E731
    keys, queues = ({name: unit_rows(n) for name in KEYS} for n in (4, 16))
    out = objective(keys, keys, queues)
    rows = torch.cat([explicit(keys[a], keys[k], queues[k], 2.0) for a, k in terms])
    assert len(out.per_sample) == (24 if intra else 16) == len(rows)
    torch.testing.assert_close(out.per_sample, rows)
    torch.testing.assert_close(out.loss, rows.mean())
    alone = objective(keys, keys)  # without queues: the batch alone
    assert float(alone.loss) < float(out.loss)


def test_item_4_originals_carry_gradient_on_both_sides_and_augmented_keys_do_not():
    """Checklist 4: of l(c, q) both members learn, of l(c, q') the anchor alone; queues are
    constants.
    """
    objective = Objective(config("method.temperature=0.5").method)
    rows = {name: F.normalize(torch.randn(4, 5), dim=1).requires_grad_() for name in KEYS}
    constant = {**rows, **{k: v.detach() for k, v in rows.items() if k.startswith("augmented")}}
    queues = {name: F.normalize(torch.randn(8, 5), dim=1).requires_grad_() for name in KEYS}
    actual = objective.terms(rows, constant, queues)
    actual["code_to_query"].loss.backward()
    assert rows["code"].grad is not None
    assert rows["query"].grad is not None
    for value in rows.values():
        value.grad = None
    actual["code_to_augmented_query"].loss.backward()
    assert rows["code"].grad is not None
    assert rows["query"].grad is rows["augmented_query"].grad is None
    assert all(queue.grad is None for queue in queues.values())
    module = module_of()
    module.losses(batch())
    assert not any(value.requires_grad for value in module._new[0].values())
    assert not module.keys(batch()["code"]).requires_grad


@pytest.mark.parametrize("original", ["online", "momentum"])
def test_item_5_queues_are_written_after_the_loss_by_the_right_encoder(original):
    """Checklist 5: originals by the encoder (or the average, if asked), augmented by the
    average."""
    module = module_of(
        "model.dropout=0.0", "method.momentum=0.5", f"method.original_keys={original}"
    )
    with torch.no_grad():  # the two encoders differ
        module.encoder.tower.model.embeddings.word_embeddings.weight.mul_(3.0)
    rows = batch()
    before = {name: module.queues[name].features.clone() for name in KEYS}
    module.losses(rows)
    assert all(torch.equal(before[name], module.queues[name].features) for name in KEYS)
    module.after_optimizer_step()
    for name in KEYS:
        online = unit(module, rows[name])
        slow = module.keys(rows[name])
        assert not torch.allclose(online, slow, atol=1e-4)
        expected = slow if name.startswith("augmented") or original == "momentum" else online
        torch.testing.assert_close(module.queues[name].features[:4], expected)
        assert int(module.queues[name].position) == 4


def test_item_5_twin_vectors_of_one_rank_are_another_queue(two_ranks):
    """The comparison above can fail: without gathering the ranks' queues differ."""
    first, second = two_ranks.run(three_steps, stage="pretrain", distributed=True, own_queue=True)
    assert not torch.equal(first["queues.code.features"], second["queues.code.features"])


def test_item_11_pads_count_for_nothing_and_vectors_have_unit_length():
    """Checklist 11: the same text with more padding; in queues and in what is searched with."""
    from projects.cocosoda.stages import recipe_of

    module = module_of("model.dropout=0.0").eval()
    rows = batch()["code"]
    wide = {k: F.pad(v, (0, 4)) for k, v in rows.items()}
    torch.testing.assert_close(module.encoder(**wide), module.encoder(**rows))
    full = {**wide, "attention_mask": torch.ones_like(wide["attention_mask"])}  # the twin
    assert not torch.allclose(module.encoder(**full), module.encoder(**rows), atol=1e-4)
    recipe = recipe_of(config())
    for actual in (
        recipe.queries(module.encoder, ["a b"]),
        recipe.documents(module.encoder, ["def f"]),
        module.queues["code"].features,
    ):
        torch.testing.assert_close(actual.norm(dim=1), torch.ones(len(actual)))


def test_vectors_of_sixteen_bits_have_unit_length_and_their_average_is_refused():
    """Vectors are brought to unit length in float32, so that what is compared with queues is a
    cosine.
    """
    module = module_of("model.dropout=0.0", "method.momentum=0.0").bfloat16()
    assert torch.isfinite(module.losses(batch())["loss"])
    for value in module._new[0].values():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.norm(dim=1), torch.ones(4), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="bf16-true freezes the key encoder"):
        config("trainer.precision=bf16-true")
    assert config("trainer.precision=bf16-true", "method.momentum=0").method.momentum == 0
    own = torch.ones(
        1, dtype=torch.bfloat16
    )  # a step of a thousandth of any such distance is rounded away
    assert torch.equal(own.lerp(2 * own, 0.001), own)


def test_ablations_leave_out_queues_terms_and_the_lag_of_the_keys():
    """Without queues, without one kind of terms, with keys by the encoder as it is (m = 0)."""
    module = module_of("method.queue_size=0", "method.momentum=0.0", "model.dropout=0.0")
    assert module.queues is module.earlier is None
    assert module.negatives_per_query(8) == 7
    assert module_of().negatives_per_query(8) == 23
    with torch.no_grad():
        module.encoder.tower.model.embeddings.word_embeddings.weight.mul_(2.0)
    module.losses(batch())["loss"].backward()
    torch.testing.assert_close(module.keys(batch()["code"]), unit(module, batch()["code"]))
    module.after_optimizer_step()
    assert Objective(config("method.inter_modal=false").method).pairs == INTRA
    with pytest.raises(UserError, match="no term is left"):
        config("method.inter_modal=false", "method.intra_modal=false")


def test_queues_that_batches_do_not_fill_are_refused():
    """When the config is read, and when devices are known only at the start."""
    for words in (["data.batch_size=7"], ["trainer.devices=3"]):
        with pytest.raises(UserError, match="not a multiple of the global batch"):
            config(*words)
    module = module_of("trainer.devices=auto")
    module.global_batch_size = 24
    with pytest.raises(UserError, match="global batch of 24 keys"):
        module.on_fit_start()
