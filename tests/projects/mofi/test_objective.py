"""Classifier, contrast and their sum (checklist items 1 to 7), golden values, two processes."""

import pytest
import torch
import torch.nn.functional as F

from projects.mofi.objective import (
    classification_loss,
    contrastive_loss,
    multi_task,
    shared_entity_mask,
)
from tests.projects.mofi.conftest import GOLDEN, batch_of, module_of
from tests.projects.mofi.workers import golden_case
from tests.unit.losses.golden import assert_close

ALL = torch.arange(12)


def inputs(seed=0, rows=5, classes=12, dim=6):
    g = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return (
        make(rows, dim).requires_grad_(),
        make(classes, dim).requires_grad_(),
        torch.tensor([3, 0, 11, 3, 7]),
    )


def dense(f, w, labels, scale=32.0, margin=0.0):
    cosines = F.normalize(f, dim=1) @ F.normalize(w, dim=1).T
    return F.cross_entropy(scale * (cosines - margin * F.one_hot(labels, len(w))), labels)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_golden_values_of_the_sampled_margin_softmax(case, two_ranks):
    """Golden: loss and gradients, by one process and by two that share rows and classes."""
    one, expected = golden_case(case, False), case["outputs"]
    assert_close(one["loss"], expected["loss"])
    assert_close(one["norm"], expected["grad_norm_features"])
    assert_close(one["matrix"].norm(), expected["grad_norm_class_matrix"])
    assert_close(one["features"], expected["grad_features_first4"])
    zero = (one["matrix"].abs().sum(1) == 0).nonzero()[:, 0].tolist()
    assert zero == expected["rows_with_zero_gradient"]
    two = two_ranks.run(golden_case, case=case, distributed=True)
    for rank in two:
        assert_close(rank["loss"], expected["loss"])
    torch.testing.assert_close(torch.cat([r["features"] for r in two]), one["features"])
    torch.testing.assert_close(sum(r["matrix"] for r in two), one["matrix"])


def test_item_1_features_and_class_vectors_are_normalised():
    """Checklist 1: lengths do not matter, and there is no bias."""
    f, w, y = inputs()
    loss = classification_loss(f, w, ALL, y)
    longer = classification_loss(7 * f, 0.1 * w * torch.arange(1, 13)[:, None], ALL, y)
    torch.testing.assert_close(loss, longer)
    names = [name for name, _ in module_of().classifier.named_parameters()]
    assert names == []
    assert "bias" not in " ".join(module_of().classifier.state_dict())


@pytest.mark.parametrize("margin_on", ["cosine", "angle"])
def test_item_2_margin_is_on_the_true_class_only(margin_on):
    """Checklist 2: CosFace and ArcFace against logits written out."""
    f, w, y = inputs()
    cosines = F.normalize(f, dim=1) @ F.normalize(w, dim=1).T
    own = F.one_hot(y, 12).bool()
    true = cosines - 0.3 if margin_on == "cosine" else (cosines.acos() + 0.3).cos()
    expected = F.cross_entropy(20 * torch.where(own, true, cosines), y)
    actual = classification_loss(f, w, ALL, y, scale=20, margin=0.3, margin_on=margin_on)
    torch.testing.assert_close(actual, expected)


def test_item_2_angle_beyond_pi_still_falls():
    """Checklist 2: ArcFace's logit goes on falling where angle + margin passes pi."""
    w, y = torch.eye(3, dtype=torch.float64)[[0, 2]], torch.tensor([0])
    angles = torch.tensor([2.6, 2.8, 3.0, 3.1], dtype=torch.float64)
    rows = torch.stack([angles.cos(), angles.sin(), 0 * angles], 1)
    options = {"scale": 1, "margin": 0.4, "margin_on": "angle"}
    losses = [float(classification_loss(f[None], w, torch.arange(2), y, **options)) for f in rows]
    assert losses == sorted(losses)


def test_item_2_margin_is_there_in_training_only():
    """Checklist 2: the module's evaluation has no margin."""
    module, batch = module_of("method.recipe=supervised", "method.sampled=100"), batch_of()
    for part in module.encoder.modules():
        part.training = False
    image = module.encoder.encode_image(batch["images"])
    args = image, batch["labels"], batch["entities"]
    with_margin = module.classifier(*args)
    module.classifier.eval()
    without = module.classifier(*args)
    module.classifier.train()
    module.method.margin = 0.0
    assert float(with_margin) > float(without) + 0.5
    torch.testing.assert_close(module.classifier(*args), without)


def test_item_3_other_entities_of_an_image_are_no_negatives():
    """Checklist 3: true classes of a row do not enter its denominator, but those of other rows."""
    f, w, y = inputs()
    entities = torch.tensor([[3, 5], [0, -1], [11, -1], [3, 4], [7, 0]])
    cosines = 32 * (F.normalize(f, dim=1) @ F.normalize(w, dim=1).T)
    for row, column in ((0, 5), (3, 4), (4, 0)):
        cosines[row, column] = -torch.inf
    actual = classification_loss(f, w, ALL, y, margin=0, entities=entities)
    torch.testing.assert_close(actual, F.cross_entropy(cosines, y))


def test_item_3_a_step_leaves_out_the_other_entities_of_each_image():
    """Checklist 3: the module hands all entities of a batch to the loss."""
    words = ("method.recipe=supervised", "method.sampled=100", "method.margin=0")
    module, batch = module_of(*words), batch_of()
    image = module.encoder.encode_image(batch["images"]).detach()
    matrix = module.classifier.matrix.weight
    plain = 32 * F.normalize(image, dim=1) @ F.normalize(matrix, dim=1).T
    masked = plain.clone()
    for row, own, label in zip(masked, batch["entities"], batch["labels"], strict=True):
        row[[e for e in own.tolist() if e >= 0 and e != label]] = -torch.inf
    actual = module.losses(batch)["cls"]
    torch.testing.assert_close(actual, F.cross_entropy(masked, batch["labels"]))
    assert not torch.isclose(actual, F.cross_entropy(plain, batch["labels"]))


def test_item_3_labels_of_the_batch_are_always_sampled():
    """Checklist 3: every label is in S however small N' is; a label outside of it is refused."""
    module, batch = module_of("method.recipe=supervised", "method.sampled=1"), batch_of(count=16)
    taken = []
    take = module.classifier.matrix.take
    module.classifier.matrix.take = lambda ids: taken.append(ids) or take(ids)
    module.losses(batch)
    assert set(batch["labels"].tolist()) == set(taken[0].tolist())
    f, w, _ = inputs()
    with pytest.raises(ValueError, match="among the sampled classes"):
        classification_loss(f[:1], w[:2], torch.tensor([4, 5]), torch.tensor([6]))


def test_item_4_all_classes_equal_the_full_softmax():
    """Checklist 4: S = all classes, loss and both gradients."""
    f, w, y = inputs()
    actual = torch.autograd.grad(classification_loss(f, w, ALL, y, margin=0.2), (f, w))
    expected = torch.autograd.grad(dense(f, w, y, margin=0.2), (f, w))
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        classification_loss(f, w, ALL, y, margin=0.2), dense(f, w, y, margin=0.2)
    )


def test_items_4_5_many_classes():
    """Checklist 4, 5: 5,000 random classes of which 500 are sampled; others have no gradient."""
    f, w, _ = inputs(rows=4, classes=5000, dim=8)
    y, ids = torch.tensor([10, 20, 30, 10]), torch.arange(0, 5000, 10)
    loss = classification_loss(f, w[ids], ids, y, margin=0)
    torch.testing.assert_close(loss, dense(f, w[ids], y // 10))
    loss.backward()
    assert (w.grad.abs().sum(1) > 0).nonzero()[:, 0].tolist() == ids.tolist()


def test_item_5_rows_that_were_not_sampled_do_not_move():
    """Checklist 5: a step of the module writes the sampled rows and no other."""
    module = module_of("method.recipe=supervised", "method.sampled=6")
    module.current_lr = lambda: 0.1
    matrix = module.classifier.matrix
    before, taken = matrix.weight.clone(), []
    take = matrix.take
    matrix.take = lambda ids: taken.append(ids) or take(ids)
    module.losses(batch_of(count=4))["loss"].backward()
    module.after_optimizer_step()
    moved = ((matrix.weight - before).abs().sum(1) > 0).nonzero()[:, 0]
    assert moved.tolist() == taken[0].tolist()
    assert len(moved) < matrix.num_classes
    assert torch.equal(matrix.second.sum(1) > 0, (matrix.weight - before).abs().sum(1) > 0)


def test_item_6_the_sum_and_both_ends():
    """Checklist 6: lambda L_cls + (1 - lambda) L_con; 1 and 0 are the single recipes."""
    terms = {"cls": torch.tensor(2.0), "con": torch.tensor(4.0)}
    assert float(multi_task(terms, 0.9)) == pytest.approx(0.9 * 2 + 0.1 * 4)
    batch = batch_of()
    actual = module_of().losses(batch)
    torch.testing.assert_close(actual["loss"], 0.9 * actual["cls"] + 0.1 * actual["con"])
    for recipe, weight in (("supervised", 1), ("contrastive", 0)):
        single = module_of(f"method.recipe={recipe}")
        ends = module_of(f"method.cls_weight={weight}")
        for one, two in ((single, ends), (ends, single)):
            assert one.losses(batch)["loss"] == two.losses(batch)["loss"]
        single.losses(batch)["loss"].backward()
        ends.losses(batch)["loss"].backward()
        grads = [{k for k, p in m.named_parameters() if p.grad is not None} for m in (single, ends)]
        assert grads[0] == grads[1]
        assert all(
            p.requires_grad == (k in grads[0])
            for k, p in single.named_parameters()
            if not k.endswith(("model.logit_scale", "model.logit_bias"))
        )


def test_item_7_pairs_with_a_common_entity_are_masked():
    """Checklist 7: off-diagonal pairs that share any entity leave both denominators, by a flag."""
    u, v, _ = inputs(rows=4, classes=4)
    entities = torch.tensor([[1, 2], [3, -1], [2, 4], [-1, -1]])
    scores = 5 * F.normalize(u, dim=1) @ F.normalize(v, dim=1).T
    plain = (
        F.cross_entropy(scores, torch.arange(4)) + F.cross_entropy(scores.T, torch.arange(4))
    ) / 2
    labels = torch.tensor([1, 3, 4, 9])
    args = u, v, 5.0, labels, entities
    torch.testing.assert_close(contrastive_loss(*args, "negative"), plain)
    scores = scores.clone()
    scores[0, 2] = scores[2, 0] = -torch.inf
    expected = (
        F.cross_entropy(scores, torch.arange(4)) + F.cross_entropy(scores.T, torch.arange(4))
    ) / 2
    torch.testing.assert_close(contrastive_loss(*args), expected)
    assert shared_entity_mask(entities) is not None


def test_item_7_equal_entities_as_positives():
    """The comparison's arm of equal information: SupCon between images and texts."""
    u, v, _ = inputs(rows=3, classes=3)
    labels = torch.tensor([7, 7, 2])
    log_p = (5 * F.normalize(u, dim=1) @ F.normalize(v, dim=1).T).log_softmax(1)
    log_q = (5 * F.normalize(v, dim=1) @ F.normalize(u, dim=1).T).log_softmax(1)
    weight = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1.0]], dtype=torch.float64)
    expected = -((log_p + log_q) * weight).sum() / 6
    entities = labels[:, None]
    actual = contrastive_loss(u, v, 5.0, labels, entities, "positive")
    torch.testing.assert_close(actual, expected)


def test_log_q_correction_lowers_the_logits_of_classes_that_are_drawn_often():
    """Frequency sampling: every logit is lowered by the log of its expected count."""
    f, w, y = inputs()
    counts = torch.linspace(-2, 0, 12, dtype=torch.float64)
    cosines = 32 * (F.normalize(f, dim=1) @ F.normalize(w, dim=1).T) - counts
    actual = classification_loss(f, w, ALL, y, margin=0, log_counts=counts)
    torch.testing.assert_close(actual, F.cross_entropy(cosines, y))
    words = ("method.sampling=frequency", "method.logq_correction=true", "method.sampled=10")
    corrected, plain = module_of(*words), module_of(words[0], words[2])
    losses = [m.losses(batch_of())["cls"] for m in (corrected, plain)]
    assert losses[0].isfinite()
    assert not torch.isclose(*losses)  # ten of the classes, so corrected


def test_item_4_all_classes_under_frequency_sampling_are_the_full_softmax():
    """Checklist 4: N' >= C with a log-Q correction was a softmax of other logits; a sample is still
    corrected.
    """
    words = ("method.sampling=frequency", "method.logq_correction=true", "method.margin=0")
    module = module_of(*words, "method.sampled=100")
    classifier, batch = module.classifier, batch_of()
    f, y = torch.randn(len(batch["labels"]), classifier.matrix.dim), batch["labels"]
    others = batch["entities"]
    actual = classifier(f, y, others)
    cosines = 32 * F.normalize(f, dim=1) @ F.normalize(classifier.matrix.weight, dim=1).T
    for row, own, label in zip(cosines, others, y, strict=True):
        row[[e for e in own.tolist() if e >= 0 and e != label]] = -torch.inf
    torch.testing.assert_close(actual, F.cross_entropy(cosines, y))
