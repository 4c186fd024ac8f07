"""Adversarial fine-tuning (SiFT)."""

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from projects.vega.adversarial import symmetric_cross_entropy, teacher_cross_entropy
from projects.vega.encoders import perturbation
from projects.vega.encoders.perturbation import EmbeddingPerturbation, perturbation_step
from projects.vega.objective import row_changes
from tests.projects.vega.conftest import GOLDEN, PLAIN, STILL, finetune_of

OUT = GOLDEN["outputs"]


@pytest.mark.parametrize("case", OUT["sift_cases"])
def test_sift_losses_reproduce_the_golden_values(case):
    """Checklist 7: both directions, and one; the weighting probabilities carry no gradient."""
    count = torch.arange(case["B"] * case["C"], dtype=torch.float64)
    student = (0.2 + count).sin().view(case["B"], case["C"]).requires_grad_()
    teacher = (0.5 * count).cos().view(case["B"], case["C"]).requires_grad_()
    both = symmetric_cross_entropy(student, teacher)
    assert both.tolist() == pytest.approx(case["symmetric_kl_per_row"], abs=2e-6)
    one = teacher_cross_entropy(student, teacher)
    assert one.tolist() == pytest.approx(case["kl_per_row"], abs=2e-6)
    grads = torch.autograd.grad(both.sum(), (student, teacher))
    apart = student.softmax(1) - teacher.softmax(1)
    torch.testing.assert_close(grads[0], apart)
    torch.testing.assert_close(grads[1], -apart)
    assert torch.autograd.grad(one.sum(), teacher, allow_unused=True) == (None,)


def test_the_perturbation_step_reproduces_the_golden_values():
    """Checklist 7: row-wise largest entry, 1e-6."""
    delta = torch.full((2, 4), 0.005, dtype=torch.float64)
    grad = torch.tensor([[1, -2, 0.5, 0], [0.1, 0.2, -0.4, 0.3]], dtype=torch.float64)
    actual = perturbation_step(delta, grad, 1e-4)
    torch.testing.assert_close(
        actual,
        torch.tensor(OUT["perturbation_after_one_step"], dtype=torch.float64),
        atol=1e-6,
        rtol=0,
    )


def test_embeddings_are_normalised_and_the_ascent_leaves_no_gradient():
    """Checklist 7: noted embeddings have mean 0 and deviation 1; the ascent raises the loss and
    gives
    the model none; the last loss reaches it, but not the embeddings below the change."""
    module, batch = finetune_of(*PLAIN, *STILL)
    model, inputs = module.classifier, batch["inputs"]
    changes = EmbeddingPerturbation(model.backbone)
    with changes.clean():
        clean = model(**inputs)
    (noted,) = changes.noted
    noted = noted[inputs["attention_mask"].bool()]  # a padding token has a constant vector
    torch.testing.assert_close(noted.mean(-1), torch.zeros_like(noted[..., 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        noted.std(-1, correction=0), torch.ones_like(noted[..., 0]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(clean, model(**inputs), atol=1e-4, rtol=1e-3)
    fixed = clean.detach()
    torch.manual_seed(5)
    deltas = changes.ascend(
        lambda: model(**inputs), lambda x: row_changes(x, fixed).sum(), 1e-2, 1e-2
    )
    assert all(p.grad is None for p in module.parameters())
    assert all(p.requires_grad for p in module.parameters())
    torch.manual_seed(5)
    start = changes.ascend(
        lambda: model(**inputs), lambda x: row_changes(x, fixed).sum(), 1e-2, 1e-12
    )
    values = []
    for own in (start, deltas):
        with changes.changed(own):
            changed = model(**inputs)
        # its gradient is that of one direction: the value with constant weights need not rise
        values.append(teacher_cross_entropy(changed, fixed).mean())
    assert float(values[1].detach()) > float(values[0].detach())
    assert float(start[0].abs().max()) <= 2e-2 + 1e-6
    assert (deltas[0] - start[0]).abs().max() <= 1e-2 + 1e-6
    row_changes(changed, fixed).mean().backward()
    assert model.head.weight.grad.any()
    assert model.backbone.encoder.layer[0].attention.self.value_proj.weight.grad.any()
    assert model.backbone.embeddings.word_embeddings.weight.grad is None
    assert not model.backbone.embeddings.LayerNorm._forward_pre_hooks


def test_the_adversarial_term_is_added_with_its_weight():
    """Checklist 7, 9: alpha; 0 is a switch of the term's weight alone.

    Scores have squared errors.
    """
    terms = {}
    for alpha in (0.0, 2.0):
        module, batch = finetune_of("sift.enabled=true", f"sift.alpha={alpha}", *STILL)
        torch.manual_seed(0)
        terms[alpha] = module.losses(batch)
    torch.testing.assert_close(terms[2.0]["loss"] - terms[0.0]["loss"], 2 * terms[2.0]["sift"])
    assert row_changes(torch.tensor([[2.0], [1.0]]), torch.tensor([[-1.0], [1.0]])).tolist() == [
        9.0,
        0.0,
    ]
    module, batch = finetune_of("data.task=stsb", "self_calibration.enabled=false", *STILL)
    module.losses(batch)["loss"].backward()
    assert module.classifier.head.weight.grad.any()
    with pytest.raises(UserError, match=r"sift\.layer"):
        EmbeddingPerturbation(module.classifier.backbone, "nothing.LayerNorm")


def test_a_row_s_step_does_not_hang_on_the_size_of_the_batch(monkeypatch):
    """Checklist 7: the ascent raises a sum, else 1e-6 would weigh more the more rows there are."""
    module, batch = finetune_of("sift.enabled=true", *STILL)
    module.double()  # in single precision the gradient at so small a change is mostly rounding
    # small changes: gradients about as large as the 1e-6, as they are in an encoder of use
    monkeypatch.setattr(perturbation, "first_perturbation", lambda like, std: 1e-4 * like.sin())
    ascend, actual = EmbeddingPerturbation.ascend, {}

    def noting(self, *given):
        deltas = ascend(self, *given)
        actual[len(deltas[0])] = deltas[0] - 1e-4 * self.noted[0].detach().sin()
        return deltas

    monkeypatch.setattr(EmbeddingPerturbation, "ascend", noting)
    for rows in (8, 2):
        inputs = {name: x[:rows] for name, x in batch["inputs"].items()}
        terms = module.losses({"inputs": inputs, "labels": batch["labels"][:rows]})
        assert terms["sift"].shape == ()  # the term itself is a mean
    torch.testing.assert_close(actual[8][:2], actual[2], atol=1e-12, rtol=1e-6)
    share = float(actual[2].abs().max()) / module.sift.lr
    assert 0.1 < share < 0.9  # so the 1e-6 is neither all of the divisor nor nothing


def test_groups_by_length_are_changed_in_their_order():
    """SiFT with passes by length gives the logits of one pass."""
    module, batch = finetune_of(*PLAIN, *STILL)
    changes = EmbeddingPerturbation(module.classifier.backbone)
    module.length_groups = 3
    with changes.clean():
        clean = module._logits(batch["inputs"])
    zeros = [torch.zeros_like(x) for x in changes.noted]
    assert len(zeros) == 3
    with changes.changed(zeros):
        again = module._logits(batch["inputs"])
    torch.testing.assert_close(clean, again, atol=1e-5, rtol=1e-4)


def test_the_training_loss_has_the_change_of_the_logits_by_hand(monkeypatch):
    """Checklist 7: the mean of both directions between clean and changed logits, with its gradient.

    It is s - t in the changed logits and t - s in the clean ones, which are not held fixed.
    """
    module, batch = finetune_of("sift.enabled=true", "sift.alpha=3", *STILL)
    inputs, labels, asked, deltas = batch["inputs"], batch["labels"], [], []

    def ascend(self, run, loss, std, step):
        asked.append((std, step))
        deltas.extend(0.5 * noted.detach().cos() for noted in self.noted)
        return deltas

    monkeypatch.setattr(EmbeddingPerturbation, "ascend", ascend)
    terms = module.losses(batch)
    assert asked == [(module.sift.init, module.sift.lr)]
    changes = EmbeddingPerturbation(module.classifier.backbone)
    with changes.clean():
        clean = module.classifier(**inputs)
    with changes.changed(deltas):
        changed = module.classifier(**inputs)
    t, s = clean.softmax(1), changed.softmax(1)
    assert (s - t).abs().max() > 1e-2  # else there is nothing to tell apart
    expected = -(t * s.log() + s * t.log()).sum(1).mean()
    torch.testing.assert_close(terms["sift"], expected)
    torch.testing.assert_close(terms["loss"], F.cross_entropy(clean, labels) + 3 * expected)
    backbone = module.classifier.backbone
    weights = [
        module.classifier.head.weight,
        backbone.encoder.layer[0].attention.self.value_proj.weight,
        backbone.embeddings.word_embeddings.weight,  # reached by the clean side alone
    ]
    apart = (s - t).detach() / len(labels)
    by_hand = torch.autograd.grad((changed, clean), weights, (apart, -apart))
    actual = torch.autograd.grad(terms["sift"], weights)
    for a, b in zip(actual, by_hand, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
