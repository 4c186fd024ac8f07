"""The loss against golden values, the batch, the four steps of the ablation, two processes."""

import pytest
import torch
from torch.nn import functional as F

from projects.rtd.data import composed_texts
from projects.rtd.objective import Objective, contrastive_loss, refined_batch
from projects.rtd.triplets import Triplet
from tests.projects.rtd.conftest import GOLDEN, batch_of, config, module_of, waves

NAIVE = ("rtd.refined_concat=false", "rtd.refined_batch=false", "rtd.frozen_target=false")


@pytest.mark.parametrize("case", GOLDEN["cases"][:3])
def test_item_5_the_loss_and_its_gradients_equal_the_golden_values(case):
    """Checklist 5: positive in the denominator, self excluded; both sides of the gradient."""
    target, composed = (waves(case["N"], case["d"], phase) for phase in (1.0, 1.4))
    out, want = contrastive_loss(target, composed, case["temperature"]), case["outputs"]
    out.loss.backward()
    assert out.loss.item() == pytest.approx(want["loss"], rel=1e-6)
    assert target.grad.norm().item() == pytest.approx(want["grad_norm_target"], rel=1e-6)
    assert composed.grad.norm().item() == pytest.approx(want["grad_norm_composed"], rel=1e-6)
    torch.testing.assert_close(
        composed.grad[0, :4],
        torch.tensor(want["grad_composed_first4"], dtype=torch.float64),
        rtol=1e-6,
        atol=1e-9,
    )


def test_item_5_the_frozen_target_has_the_same_loss_and_no_gradient():
    """Checklist 5, 9: anchors carry no gradient, queries the golden one."""
    case = GOLDEN["cases"][0]
    target, composed = (waves(case["N"], case["d"], phase) for phase in (1.0, 1.4))
    out = contrastive_loss(target, composed, 0.07, frozen_target=True)
    out.loss.backward()
    assert target.grad is None
    assert out.loss.item() == pytest.approx(case["outputs"]["loss"], rel=1e-6)
    assert composed.grad.norm().item() == pytest.approx(
        case["outputs"]["grad_norm_composed"], rel=1e-6
    )


def test_item_4_the_refined_batch_equals_the_golden_values():
    """Checklist 4: 2B pairs [t; r] and [q; e]; the loss with and without refinement."""
    case = GOLDEN["cases"][3]
    t, r, q, e = (waves(case["N"], case["d"], phase) for phase in (1.0, 2.0, 1.2, 2.2))
    anchors, queries = refined_batch(t, r, q, e)
    assert anchors.shape == queries.shape == (2 * case["N"], case["d"])
    assert torch.equal(anchors[case["N"] :], r)
    assert torch.equal(queries[: case["N"]], q)
    objective = Objective(0.07, frozen_target=True, refined=True, gather=False)
    loss = objective(t, r, q, e).loss
    loss.backward()
    want = case["outputs"]
    assert loss.item() == pytest.approx(want["loss"], rel=1e-6)
    assert q.grad.norm().item() == pytest.approx(want["grad_norm_rc"], rel=1e-6)
    assert e.grad.norm().item() == pytest.approx(want["grad_norm_special"], rel=1e-6)
    alone = Objective(0.07, frozen_target=True, refined=False, gather=False)(t, r, q, None)
    assert alone.loss.item() == pytest.approx(want["loss_without_refinement"], rel=1e-6)


def test_item_4_both_parts_share_the_pseudo_words_and_the_noise_has_the_methods_scale(monkeypatch):
    """Checklist 3, 4: phi sees r + 0.5 u n once; q and e get the same vectors."""
    module = module_of("rtd.noise_scale=0.5")
    batch, seen, given = batch_of(module), [], []
    words, query = module.composer.pseudo_words, module.composer.query
    monkeypatch.setattr(module.composer, "pseudo_words", lambda x: seen.append(x) or words(x))
    monkeypatch.setattr(
        module.composer, "query", lambda ids, p=None: given.append((ids, p)) or query(ids, p)
    )
    module.losses(batch)
    (noisy,) = seen
    reference = module.composer.anchor(batch["reference"])
    torch.testing.assert_close(noisy, reference + 0.5 * batch["noise"])
    (first, p), (second, same) = given
    assert p is same
    assert torch.equal(first, batch["composed"])
    assert torch.equal(second, batch["special"])


def test_item_9_each_ingredient_can_be_switched_off():
    """Checklist 9: the four steps of the ablation: sentences, gradient through targets, pairs."""
    row = [Triplet("a red car", "is blue", "a blue car")]
    assert composed_texts(row, config().rtd) == (["a photo of $ that is blue"], ["a photo of $"])
    naive = config("rtd.refined_concat=false").rtd
    assert composed_texts(row, naive) == (["a red car that is blue"], ["a red car"])
    losses = []
    for words in (NAIVE, NAIVE[:2], NAIVE[:1], ()):
        module = module_of(*words)
        loss = module.losses(batch_of(module, *words))["loss"]
        loss.backward()
        losses.append(loss.item())
        grads = [p.grad for p in module.composer.student.parameters()]
        assert all(g is not None and bool(g.abs().sum() > 0) for g in grads)
        assert module.negatives_per_query(8) == (14 if "rtd.refined_batch=false" in words else 30)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # at step 0 the student is the anchor
    assert len({round(value, 4) for value in losses[1:]}) == 3


def test_a_trainable_target_has_another_gradient_than_a_frozen_one():
    """Checklist 9, step (a) against (b): the loss is the same, its gradient is not."""
    grads = []
    for words in (NAIVE, NAIVE[:2]):
        module = module_of(*words)
        module.losses(batch_of(module, *words))["loss"].backward()
        grads.append(module.composer.student.text_projection.grad)
    assert F.cosine_similarity(*(g.flatten() for g in grads), dim=0) < 0.999
