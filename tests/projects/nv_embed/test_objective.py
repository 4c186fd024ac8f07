"""The two objectives, gradients, two processes."""

import pytest
import torch
from torch.nn import functional as F

from projects.nv_embed.config import MethodConfig
from projects.nv_embed.data.training_sets import stage_data
from projects.nv_embed.module import NvEmbed, Objective, own_class, own_class_negatives
from tests.projects.nv_embed.conftest import POOLINGS, batch_of, config, module, tasks
from tests.projects.nv_embed.workers import mixed_step
from tests.unit.losses.golden import assert_close, fill, grad_norm, load

GOLDEN = load("nv_embed")["outputs"]["losses"]


def vectors(rows=3, hard=2, dim=5):
    q, p, n = fill((rows, dim), 0.2), fill((rows, dim), 1.2), fill((rows, hard, dim), 2.2)
    return [F.normalize(x.detach(), dim=-1) for x in (q, p, n)]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"tau{c['temperature']}")
@pytest.mark.parametrize(
    ("in_batch", "name"),
    [(True, "stage1_inbatch_plus_all_hard_negatives"), (False, "stage2_own_hard_negatives_only")],
)
def test_golden_losses(case, in_batch, name):
    """Checklist 5: values and query gradients of both stages, float64, unit vectors."""
    q, p, n = vectors()
    q.requires_grad_()
    out = Objective(MethodConfig(temperature=case["temperature"]), in_batch=in_batch)(q, p, n)
    assert_close(out.loss, case[name])
    # the recorded gradient is that of unit queries, ours also goes through the normalisation
    raw = Objective(MethodConfig(temperature=case["temperature"]), in_batch=in_batch)
    raw.loss.normalize = False
    raw(q, p, n).loss.backward()
    assert_close(grad_norm(q), case[f"{name[:6]}_grad_norm_q"])


def test_terms_of_the_denominator():
    """Checklist 5: B (1 + n) terms in stage 1, 1 + n in stage 2, by equal similarities."""
    z = torch.ones(4, 6)
    hard = torch.ones(4, 3, 6)
    method = MethodConfig()
    assert_close(Objective(method, in_batch=True)(z, z, hard).loss.exp(), 16.0, rel=1e-5)
    assert_close(Objective(method, in_batch=False)(z, z, hard).loss.exp(), 4.0, rel=1e-5)
    own = Objective(MethodConfig(shared_hard_negatives=False), in_batch=True)
    assert_close(own(z, z, hard).loss.exp(), 7.0, rel=1e-5)  # B positives and its own n
    stage_1, stage_2 = module(in_batch=True), module()
    assert stage_1.negatives_per_query(8) == 8 * 3 - 1
    assert stage_2.negatives_per_query(8) == 2
    assert (stage_1.in_batch_negatives, stage_2.in_batch_negatives) == (True, False)


@pytest.mark.parametrize("in_batch", [True, False])
def test_loss_of_a_sample_and_its_batch_mates(in_batch):
    """Checklist 6: stage 2 gives a sample the same loss in any batch; stage 1 does not."""
    model = module("model.lora_dropout=0", in_batch=in_batch).train()
    data = stage_data(config(), model.encoder, list(tasks())).train_set
    first, second = data[[(0, 0), (1, 0), (2, 0)]], data[[(0, 0), (5, 0), (9, 0)]]
    a, b = (float(model.objective(*model.embed(x)).per_sample[0].detach()) for x in (first, second))
    assert (abs(a - b) < 1e-4 * abs(a)) == (not in_batch)


def test_query_side_only():
    """No document -> query term: a second positive text equal to a query changes nothing there."""
    q, p, n = vectors()
    method = MethodConfig(temperature=0.1)
    logits = torch.cat([q @ p.T, (q[:, None] @ n.flatten(0, 1).T)[:, 0]], dim=1) / 0.1
    expected = F.cross_entropy(logits, torch.arange(3))
    assert_close(Objective(method, in_batch=True)(q, p, n).loss, expected)
    back = F.cross_entropy((p @ q.T) / 0.1, torch.arange(3))
    assert abs(float(expected - back)) > 1e-3


def test_frozen_weights_in_bfloat16_beside_trained_ones_in_float32(pool):
    """The paper config: weights=bfloat16 under bf16-mixed; one block holds both."""
    for trained, frozen in pool(2).run(mixed_step):
        assert trained == {"torch.float32"}
        assert "torch.bfloat16" in frozen


@pytest.mark.parametrize(("pooling", "causal"), POOLINGS)
def test_gradient_reaches_every_trained_parameter(pooling, causal):
    """Checklist 15: every pooling and mask trains with one module."""
    words = ("model.lora_dropout=0", f"model.pooling={pooling}", f"model.causal={causal}")
    model = module(*words, in_batch=True).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which hides lora_A
            torch.nn.init.normal_(parameter, std=0.1)
    terms = model.losses(batch_of(6))
    terms["loss"].backward()
    assert all(torch.isfinite(v).all() for v in terms.values())
    silent = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.abs().sum()]
    assert not silent
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_documents_of_the_own_class_can_be_left_out():
    """The control of the comparison: in-batch terms without those of the query's class, by hand;
    its positive stays.
    """
    q, p, n = vectors()
    label, documents = torch.tensor([4, 4, -1]), torch.tensor([[4, 5, -1], [4, 4, 5], [-1, 4, -1]])
    method = MethodConfig(temperature=0.1)
    actual = Objective(method, in_batch=True)(q, p, n, own_class(label, documents)).per_sample
    for i in range(3):
        terms = [(q[i] @ p[i]) / 0.1]
        for j in range(3):
            columns = [(p[j], documents[j, 0]), *zip(n[j], documents[j, 1:], strict=True)]
            terms += [
                (q[i] @ d) / 0.1
                for k, (d, of) in enumerate(columns)
                if (j, k) != (i, 0) and not (label[i] >= 0 and of == label[i])
            ]
        assert_close(actual[i], torch.stack(terms).logsumexp(0) - terms[0])
    every = Objective(method, in_batch=True)(q, p, n).per_sample
    assert (actual[:2] < every[:2] - 1e-4).all()
    assert_close(actual[2], every[2])  # without class, nothing is left out
    assert not module("method.mask_own_class=true").mask  # there are no batch mates
    model = module("method.mask_own_class=true", "model.lora_dropout=0", in_batch=True).train()
    masked = float(model.losses(batch_of(8))["loss"].detach())
    model.mask = False
    assert masked < float(model.losses(batch_of(8))["loss"].detach()) - 1e-3


def test_share_of_own_class_among_in_batch_negatives():
    task, label = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3, 3, 4, -1, -1])
    same, total = own_class_negatives(task, label)
    assert (int(same), total) == (2, 20)
    model = module(in_batch=True).train()
    model.losses(batch_of(8))
    assert int(model.negatives_seen) == 56
    later = NvEmbed(config(), model.encoder)
    later.continue_counts(model)
    assert int(later.negatives_seen) == 56
    assert "own_class_negatives" not in later.losses(batch_of(6))
