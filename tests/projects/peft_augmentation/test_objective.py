"""Mixup, the contrastive term, and equal runs without it."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.tables import write_jsonl
from common.data.text.labelled.batches import ClassBatches
from common.encoders.text.tuned.classifier import mixed_at
from projects.peft_augmentation.config import ContrastConfig
from projects.peft_augmentation.objective import Objective, margin_contrast, mixup_loss
from projects.peft_augmentation.stages import labelled_parts, training_data
from tests.projects.peft_augmentation.conftest import PLAIN, STILL, config, module_of


def batch_of(module, *overrides, rows=8):
    return training_data(config(*overrides), module).train_set[[(i, 0) for i in range(rows)]]


def test_the_contrast_compares_vectors_before_the_pooler():
    """Behind the pooler the term would be another one."""
    words = ["model.pooling=pooler", "contrast.weight=1", *STILL]
    module = module_of(*words)
    batch = batch_of(module, *words)
    vectors = module.classifier.vectors(**batch["inputs"])
    pooled = module.classifier.pooled(vectors)
    logits = module.classifier.classify(pooled)
    actual = module.losses(batch)["contrast"]
    before, behind = (
        module.objective(logits, batch["labels"], x)["contrast"] for x in (vectors, pooled)
    )
    torch.testing.assert_close(actual, before)
    assert not torch.isclose(actual, behind)


def test_mixup_mixes_labels_with_the_share_of_the_features():
    """Checklist 8: lambda CE_i + (1 - lambda) CE_j, and plain cross-entropy at lambda = 1."""
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels, partner = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 3, 0])
    share = torch.tensor([0.2, 0.7, 1.0, 0.0])
    own, other = (F.cross_entropy(logits, y, reduction="none") for y in (labels, labels[partner]))
    actual = mixup_loss(logits, labels, share, partner)
    torch.testing.assert_close(actual, share * own + (1 - share) * other)
    torch.testing.assert_close(mixup_loss(logits, labels, torch.ones(4), partner), own)


@pytest.mark.parametrize("layer", ["sentence", "input", "middle"])
def test_mixtures_of_a_batch(layer, monkeypatch):
    """Checklist 8: with lambda = 1 the mixtures are the originals, and the loss is plain
    cross-entropy; originals are kept, and as many mixtures are added."""
    words = ["contrast.weight=0", "augment.kind=mixup", f"augment.layer={layer}", *STILL]
    module = module_of(*words)
    batch = batch_of(module, *words)
    logits = module.classifier(**batch["inputs"])
    plain = F.cross_entropy(logits, batch["labels"])
    partner = torch.arange(8).roll(1)
    for share in (1.0, 0.25):
        drawn = (torch.full((8,), share), partner)
        monkeypatch.setattr(
            "projects.peft_augmentation.module.mixture", lambda *_, drawn=drawn: drawn
        )
        actual = module.losses(batch)["loss"]
        if share == 1.0 and layer == "sentence":
            torch.testing.assert_close(actual, plain)
        if layer == "sentence":
            states = module.classifier.vectors(**batch["inputs"])
            mixed = module.classifier.head(share * states + (1 - share) * states[partner])
            want = (plain + mixup_loss(mixed, batch["labels"], drawn[0], partner).mean()) / 2
            torch.testing.assert_close(actual, want)
        else:
            assert abs(float(actual - plain)) > (0 if share == 1.0 else 1e-4)


@pytest.mark.parametrize(("layer", "at"), [("input", 0), ("middle", 1)])
def test_mixtures_inside_the_encoder(layer, at, monkeypatch):
    """Checklist 8: labels have the shares of the states, lambda = 1 is plain cross-entropy, and a
    mixture is
    as long as the longer of its two texts."""
    words = ["contrast.weight=0", "augment.kind=mixup", f"augment.layer={layer}", *STILL]
    module, labels, partner = module_of(*words), torch.tensor([0, 1]), torch.tensor([1, 0])
    model = module.classifier
    for second, value in (("the dog", 1.0), ("the dog", 0.25), ("the dog and rain", 0.25)):
        inputs = model.pad(model.rows([("the cat",), (second,)]))
        share = torch.full((2,), value)
        drawn = lambda *_, share=share: (share, partner)  # noqa: E731
        monkeypatch.setattr("projects.peft_augmentation.module.mixture", drawn)
        actual = module.losses({"inputs": inputs, "labels": labels})["loss"]
        want = F.cross_entropy(model(**inputs), labels)
        if value < 1:
            longer = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
            with mixed_at(model.backbone, at, lambda x: 0.25 * x + 0.75 * x[partner]):
                mixed = mixup_loss(model(**longer), labels, share, partner)
            want = (want + mixed.mean()) / 2
        torch.testing.assert_close(actual, want)


def test_input_mixup_of_equally_long_texts_is_that_of_their_embeddings():
    """Checklist 8: layer input; lambda = 1 gives the originals' logits."""
    module = module_of(*STILL).eval()
    inputs = module.classifier.pad(module.classifier.rows([("the cat",), ("the dog",)]))
    model, before = module.classifier, module.classifier(**inputs)
    with mixed_at(model.backbone, 0, lambda x: x):
        torch.testing.assert_close(model(**inputs), before)
    with mixed_at(model.backbone, 2, lambda x: x.flip(0)):
        torch.testing.assert_close(model(**inputs), before.flip(0))
    torch.testing.assert_close(model(**inputs), before)  # the hook is gone
    with pytest.raises(ValueError, match="layer"), mixed_at(model.backbone, 3, lambda x: x):
        pass


def supervised(vectors, labels, temperature):
    """The sheet's equation, row by row."""
    z = F.normalize(vectors, dim=1)
    rows = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        scores = torch.stack([z[i] @ z[a] / temperature for a in others])
        positives = [k for k, a in enumerate(others) if labels[a] == labels[i]]
        if positives:
            rows.append(-(scores.log_softmax(0)[positives]).mean())
    return torch.stack(rows).mean()


def test_the_supervised_form_ignores_self_and_anchors_without_positives():
    """Checklist 9: by cosine; rows without another of their class are skipped."""
    generator = torch.Generator().manual_seed(0)
    vectors = 3 * torch.randn(6, 5, generator=generator)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    objective = Objective(ContrastConfig(weight=0.5, temperature=0.3))
    logits = torch.randn(6, 3, generator=generator)
    terms = objective(logits, labels, vectors)
    torch.testing.assert_close(terms["contrast"], supervised(vectors, labels, 0.3))
    torch.testing.assert_close(
        terms["contrast"], objective(logits, labels, 7 * vectors)["contrast"]
    )
    want = F.cross_entropy(logits, labels) + 0.5 * terms["contrast"]
    torch.testing.assert_close(terms["loss"], want)
    alone = objective(logits[:3], torch.tensor([0, 1, 2]), vectors[:3])
    assert float(alone["contrast"]) == 0
    assert torch.isfinite(alone["loss"])


def test_further_forms():
    """Margin: pull of the copies and hinge between classes; NT-Xent on (original, copy)."""
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    labels = torch.tensor([0, 1, 0, 1])
    # pull: (0 + 0.2) / 2; pairs of two classes: cos 0, 0.6, 0, 0.6 both ways, above 0.3 by 0.3
    torch.testing.assert_close(margin_contrast(z, labels, 0.3), torch.tensor(0.1 + 0.15))
    one_class = margin_contrast(z, torch.zeros(4, dtype=torch.long), 0.3)
    torch.testing.assert_close(one_class, torch.tensor(0.1))
    terms = Objective(ContrastConfig(weight=1.0, form="nt_xent"))(torch.zeros(4, 2), labels, z)
    cosines = (z @ z.T / 0.1).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf)
    want = F.cross_entropy(cosines, torch.tensor([2, 3, 0, 1]))
    torch.testing.assert_close(terms["contrast"], want)
    with pytest.raises(UserError, match="pairs examples with copies"):
        config("contrast.form=margin", "augment.kind=none")


def test_weight_zero_is_no_contrast():
    """Checklist 9: the same loss bit for bit, whatever the other options of the term."""
    actual = []
    for words in (
        ["contrast.weight=0"],
        ["contrast.weight=0", "contrast.temperature=0.3", "contrast.form=nt_xent"],
    ):
        module = module_of(*words, *STILL)
        terms = module.losses(batch_of(module, *words))
        assert "contrast" not in terms
        assert not module.in_batch_negatives
        actual.append(terms["loss"])
    assert torch.equal(*actual)
    torch.testing.assert_close(actual[0], terms["cross_entropy"])


def test_without_copies_the_term_sees_originals_alone():
    """Objective: same-class originals only; with copies both views."""
    words = ["augment.kind=none", "contrast.weight=1.0", *STILL]
    module = module_of(*words)
    batch = batch_of(module, *words)
    vectors = module.classifier.vectors(**batch["inputs"])
    assert len(vectors) == 8
    torch.testing.assert_close(
        module.losses(batch)["contrast"], supervised(vectors, batch["labels"], 0.1)
    )


def test_all_augmentations_work_with_all_tunings(tmp_path):
    """Checklist 16: one switch each; every cell trains, with and without contrast."""
    train, _ = labelled_parts(config().data, config().seed)
    cache, told = tmp_path / "copies.jsonl", {"field": 0, "method": "back_translation"}
    write_jsonl(cache, [{"id": key, **told, "text": "so it rains again"} for key in train.ids])
    read = {"back_translation": f"augment.cache={cache}"}
    for kind, augment in itertools.product(
        ("full", "prefix", "lora"), ("none", "eda", "back_translation", "mixup")
    ):
        words = [f"tuning.kind={kind}", f"augment.kind={augment}", "contrast.weight=0.1"]
        words += [read[augment]] if augment in read else []
        module = module_of(*words)
        batch = batch_of(module, *words)
        assert len(batch["labels"]) == (16 if augment in ("eda", "back_translation") else 8)
        if augment in read:
            (copy,) = module.classifier.rows([("so it rains again",)])
            ids = torch.tensor(copy["input_ids"])
            assert batch["inputs"]["input_ids"][8:, : len(ids)].eq(ids).all()
        for contrasts in (True, False):
            module.zero_grad()
            terms = module.losses(batch)
            terms["loss"].backward()
            trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
            silent = [name for name, parameter in trained if parameter.grad is None]
            assert not silent, (kind, augment, contrasts, silent)
            assert ("contrast" in terms) == contrasts
            module.objective.contrast.weight = 0.0


def test_every_setting_makes_as_many_steps():
    """Checklist 11: an epoch has as many batches with copies as without; rows differ."""
    counts, rows = set(), []
    for words in (
        PLAIN,
        ["augment.kind=eda"],
        ["augment.kind=mixup"],
        ["augment.kind=none", "augment.repeat=true"],
    ):
        module = module_of(*words)
        data = training_data(config(*words), module)
        counts.add(data.batches_per_epoch())
        rows.append(len(data.train_set[[(0, 0), (1, 0)]]["labels"]))
    assert len(counts) == 1
    assert rows == [2, 4, 2, 4]


def test_a_repeated_example_is_its_own_copy():
    module = module_of()
    train, _ = labelled_parts(config().data, 0)
    batch = ClassBatches(train, module.classifier, [[] for _ in train.texts])[[(0, 0), (5, 0)]]
    assert torch.equal(batch["inputs"]["input_ids"][:2], batch["inputs"]["input_ids"][2:])
    assert batch["labels"].tolist() == 2 * batch["labels"][:2].tolist()
