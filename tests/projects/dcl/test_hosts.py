"""The three hosts as modules: what is stored when, gradients, two processes, resume."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.config import UserError
from common.encoders.sync_norm import SyncBatchNorm
from common.engine.trainer import check_accumulation
from projects.dcl.module import DCL
from projects.dcl.objective import ObjectiveOutput
from tests.projects.dcl.conftest import HOSTS, LOSSES, batch, config


def module_of(host, loss="dcl", *overrides):
    torch.manual_seed(0)
    return DCL(config(f"method.host={host}", f"method.loss={loss}", *overrides))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_item_10_every_host_takes_every_loss(host, loss):
    """Item 10: finite loss, and a gradient for every trained parameter."""
    module = module_of(host, loss)
    terms = module.losses(batch())
    assert all(torch.isfinite(value) for value in terms.values())
    terms["loss"].backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            # a bias before a norm, and the last projector bias, may cancel; a weight may not
            assert parameter.ndim < 2 or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_item_9_coupling_is_logged(host, loss):
    """Item 9: mean and variation of q_B; smoke logs every step."""
    terms = module_of(host, loss).losses(batch())
    assert 0 < float(terms["npc_mean"]) < 1
    assert float(terms["npc_variation"]) > 0


def test_item_9_coupling_is_computed_on_logged_steps_only():
    module = module_of("simclr", "infonce", "trainer.log_every_n_steps=2")
    assert "npc_mean" not in module.losses(batch())  # step 1 of 2


@pytest.mark.parametrize("host", HOSTS)
def test_the_share_of_hits_is_that_of_the_objective(monkeypatch, host):
    module, hits = module_of(host), torch.tensor([True, False, True, True, True, True])
    output = ObjectiveOutput(torch.ones(()), torch.empty(0), hits)
    monkeypatch.setattr(module.objective, "forward", lambda *_: output)
    assert float(module.losses(batch())["top1"]) == pytest.approx(5 / 6)


def test_item_2_keys_enter_the_queue_after_the_loss():
    """Item 2: the loss of a batch does not see its own keys; the next one does."""
    module = module_of("moco")
    before = module.queue.features.clone()
    module.losses(batch())
    assert torch.equal(module.queue.features, before)
    with torch.no_grad():
        keys = nn.functional.normalize(module.momentum_encoder(batch()["view_2"]), dim=1)
    module.after_optimizer_step()
    torch.testing.assert_close(module.queue.features[:6], keys, rtol=1e-4, atol=1e-5)
    assert torch.equal(module.queue.features[6:], before[6:])
    assert module.negatives_per_query(6) == 64


def test_moco_compares_the_first_view_with_the_momentum_encoder_s_second():
    module = module_of("moco")
    with torch.no_grad():
        for parameter in module.momentum_encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    key = module.momentum_encoder(batch()["view_2"])
    expected = module.objective(module.network(batch()["view_1"]), key, module.queue.features).loss
    torch.testing.assert_close(module.losses(batch())["loss"], expected)
    torch.testing.assert_close(torch.cat(module._new_rows), key)


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_nnclr_compares_neighbours_of_a_view_with_predictions_of_the_other(reduction, factor):
    """Both directions; neighbours are stored rows, not the projections themselves."""
    module = module_of("nnclr", "dcl", f"method.reduction={reduction}")
    z = module.network(torch.cat([batch()["view_1"], batch()["view_2"]]))
    p_1, p_2 = module.predictor(z).chunk(2)
    stored = module.support.features
    near_1, near_2 = stored[(nn.functional.normalize(z, dim=1) @ stored.T).argmax(1)].chunk(2)
    expected = module.objective(near_1, p_2).loss + module.objective(near_2, p_1).loss
    torch.testing.assert_close(module.losses(batch())["loss"], factor * expected)


def test_item_11_keys_and_neighbours_carry_no_gradient():
    """Item 11: momentum encoder, queue and support set receive none."""
    moco = module_of("moco")
    moco.losses(batch())["loss"].backward()
    assert all(p.grad is None for p in moco.momentum_encoder.parameters())
    assert not moco.momentum_encoder(batch()["view_2"]).requires_grad
    nnclr = module_of("nnclr")
    z = nnclr.network(batch()["view_1"])
    assert z.requires_grad
    assert not nnclr.support.nearest(z).requires_grad
    assert not nnclr._new_rows


def test_item_11_negative_twin_without_the_predictor_nnclr_has_no_gradient():
    """All gradient of NNCLR flows through the predictions, none through the neighbours."""
    module = module_of("nnclr")
    module.predictor.requires_grad_(False)
    for parameter in module.predictor.parameters():
        parameter.zero_()
    module.losses(batch())["loss"].backward()
    gradients = [p.grad for p in module.network.parameters() if p.grad is not None]
    assert gradients
    assert max(float(g.abs().max()) for g in gradients) == 0.0


def test_nnclr_support_set_takes_the_first_view_s_projections():
    module = module_of("nnclr")
    module.losses(batch())
    rows = torch.cat(module._new_rows)
    module.after_optimizer_step()
    torch.testing.assert_close(
        module.support.features[:6], nn.functional.normalize(rows, dim=1), rtol=1e-5, atol=1e-6
    )
    assert module.negatives_per_query(6) == 5


@pytest.mark.parametrize("host", ["moco", "nnclr"])
def test_rows_of_every_batch_of_a_step_are_stored_once(host):
    """Two batches make a step here; the next step stores its own rows alone."""
    module = module_of(host)
    store = module.queue if host == "moco" else module.support
    for step in range(2):
        for seed in (2 * step, 2 * step + 1):
            module.losses(batch(seed=seed))
        rows = nn.functional.normalize(torch.cat(module._new_rows), dim=1)
        assert len(rows) == 12
        module.after_optimizer_step()
        stored = store.features[12 * step : 12 * step + 12]
        torch.testing.assert_close(stored, rows, rtol=1e-5, atol=1e-6)
    assert int(store.position) == 24


def test_queue_and_support_set_have_sizes_of_their_own():
    words = ["method.queue_size=24", "method.support_size=18"]
    assert len(module_of("moco", "dcl", *words).queue) == 24
    assert len(module_of("nnclr", "dcl", *words).support) == 18


def test_item_9_coupling_of_nnclr_is_that_of_both_directions():
    module = module_of("nnclr")
    z = module.network(torch.cat([batch()["view_1"], batch()["view_2"]]))
    near_1, near_2 = module.support.nearest(z).chunk(2)
    p_1, p_2 = module.predictor(z).chunk(2)
    npc = torch.cat([module.objective(near_1, p_2).npc, module.objective(near_2, p_1).npc])
    terms = module.losses(batch())
    torch.testing.assert_close(terms["npc_mean"], npc.mean())
    torch.testing.assert_close(terms["npc_variation"], npc.std() / npc.mean())


def test_momentum_encoder_follows_after_the_step():
    module = module_of("moco", "dcl", "method.momentum=0.75")
    weight = module.network.projector.layers[-1].weight
    copy = module.momentum_encoder.network.projector.layers[-1].weight
    start = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    module.losses(batch())
    module.after_optimizer_step()
    torch.testing.assert_close(copy, start + 0.25)


def test_negatives_per_query_of_simclr():
    assert module_of("simclr").negatives_per_query(16) == 30
    assert not module_of("moco").in_batch_negatives


def test_accumulation_is_refused_where_the_loss_looks_at_the_batch():
    """MoCo's negatives are the queue, but DCLW's weights average to one over the batch at hand."""
    trainer = config("trainer.accumulate_grad_batches=2").trainer
    for loss in ("infonce", "dcl"):
        check_accumulation(trainer, SimpleNamespace(module=module_of("moco", loss)))
    for host, loss in (("moco", "dclw"), ("nnclr", "dcl"), ("simclr", "dcl")):
        with pytest.raises(UserError, match="adds no negatives"):
            check_accumulation(trainer, SimpleNamespace(module=module_of(host, loss)))


def test_sync_batchnorm_replaces_every_norm_and_keeps_the_keys():
    plain, synced = module_of("moco"), module_of("moco", "dcl", "model.sync_batchnorm=true")
    assert plain.state_dict().keys() == synced.state_dict().keys()
    kinds = {type(m) for m in synced.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {SyncBatchNorm}


# -- two processes equal one ---------------------------------------------------------------------


# -- exact resume --------------------------------------------------------------------------------
