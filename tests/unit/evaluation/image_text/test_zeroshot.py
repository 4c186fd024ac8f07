"""Zero-shot classification: ensembling order, pessimistic ties, per-class means."""

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from common.evaluation.image_text import zeroshot
from common.evaluation.image_text.zeroshot import (
    class_embeddings,
    zeroshot_accuracy,
)


def test_templates_are_normalised_averaged_and_normalised_again():
    table = {"a dog": [10.0, 0.0], "the dog": [0.0, 1.0]}
    weights = class_embeddings(
        lambda texts: torch.tensor([table[t] for t in texts]), ["dog"], ["a {}", "the {}"]
    )
    torch.testing.assert_close(weights, torch.tensor([[0.5**0.5, 0.5**0.5]]))
    # Negative twin: the mean of the raw embeddings points elsewhere.
    raw = torch.nn.functional.normalize(torch.tensor([[5.0, 0.5]]), dim=1)
    assert (weights - raw).abs().max() > 0.2


def test_every_class_gets_its_own_templates():
    def encode(texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float("cat" in t), float("dog" in t)] for t in texts])

    weights = class_embeddings(encode, ["cat", "dog"], ["a {}", "the {}", "{}"], batch_size=4)
    assert weights.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_batching_does_not_change_class_embeddings_and_respects_the_limit():
    calls = []

    def encode(texts: list[str]) -> torch.Tensor:
        calls.append(len(texts))
        return torch.tensor([[float(len(t)), float(t.count("a")), 1.0] for t in texts])

    names, templates = ["cat", "dog", "aardvark"], ["a {}", "the {} at last", "{}"]
    whole = class_embeddings(encode, names, templates, batch_size=100)
    parts = class_embeddings(encode, names, templates, batch_size=2)
    assert calls == [9, 2, 2, 2, 2, 1]
    torch.testing.assert_close(whole, parts)


def test_template_sets():
    assert len(zeroshot.OPENAI_TEMPLATES) == 80
    assert len(set(zeroshot.OPENAI_TEMPLATES)) == 80
    assert len(zeroshot.IMAGENET_CLASS_NAMES) == 1000
    sets = (zeroshot.OPENAI_TEMPLATES, zeroshot.SIMPLE_TEMPLATES, zeroshot.LACLIP_TEMPLATES)
    assert all(t.count("{}") == 1 for templates in sets for t in templates)
    assert set(zeroshot.SIMPLE_TEMPLATES) < set(zeroshot.OPENAI_TEMPLATES)
    with pytest.raises(AttributeError, match="NO_TEMPLATES"):
        _ = zeroshot.NO_TEMPLATES


def test_simple_templates_are_those_of_open_clip():
    from open_clip.zero_shot_metadata import SIMPLE_IMAGENET_TEMPLATES

    expected = tuple(fill("{}") for fill in SIMPLE_IMAGENET_TEMPLATES)
    assert expected == zeroshot.SIMPLE_TEMPLATES


@pytest.mark.parametrize("chunk_size", [1, 17, 4096])
def test_accuracy_equals_sklearn(chunk_size):
    generator = torch.Generator().manual_seed(0)
    images, classes = (torch.randn(n, 5, generator=generator) for n in (200, 8))
    labels = torch.randint(0, 8, (200,), generator=generator)
    unit = torch.nn.functional.normalize
    scores = (unit(images) @ unit(classes).T).numpy()
    metrics = zeroshot_accuracy(images, labels, classes, chunk_size=chunk_size)
    names = list(range(8))
    for k in (1, 5):
        expected = top_k_accuracy_score(labels.numpy(), scores, k=k, labels=names)
        assert metrics[f"top{k}"] == pytest.approx(expected)
    expected = balanced_accuracy_score(labels.numpy(), scores.argmax(axis=1))
    assert metrics["mean_per_class"] == pytest.approx(expected)
    assert metrics["top1_chance"] == metrics["mean_per_class_chance"] == 1 / 8
    assert metrics["top5_chance"] == 5 / 8


def test_top1_and_mean_per_class_differ_under_imbalance():
    images = torch.tensor([[1.0, 0.0]] * 4)
    metrics = zeroshot_accuracy(images, torch.tensor([0, 0, 0, 1]), torch.eye(2))
    assert metrics["top1"] == 0.75
    assert metrics["mean_per_class"] == 0.5
    assert metrics["top5"] == metrics["top5_chance"] == 1.0  # only two classes


def test_classes_that_do_not_occur_are_left_out_of_the_mean():
    metrics = zeroshot_accuracy(torch.eye(4)[[0, 2]], torch.tensor([0, 2]), torch.eye(4))
    assert metrics["mean_per_class"] == 1.0


def test_collapsed_class_embeddings_score_zero():
    images, labels = torch.eye(3), torch.zeros(3, dtype=torch.long)
    assert zeroshot_accuracy(images, labels, torch.ones(3, 3))["top1"] == 0.0
    assert zeroshot_accuracy(images, torch.arange(3), torch.eye(3))["top1"] == 1.0


def test_refusals():
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="exactly once"):
        class_embeddings(lambda texts: eye, ["a"], ["no place"])
    with pytest.raises(ValueError, match="class names and templates"):
        class_embeddings(lambda texts: eye, [], ["{}"])
    with pytest.raises(ValueError, match="2 rows for 1 texts"):
        class_embeddings(lambda texts: eye, ["a"], ["{}"])
    with pytest.raises(ValueError, match="'b' cancel out"):
        class_embeddings(
            lambda texts: torch.tensor([[1.0], [1.0], [1.0], [-1.0]]), ["a", "b"], ["{}", "a {}"]
        )
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        zeroshot_accuracy(eye, torch.tensor([0, 2]), eye)
    with pytest.raises(ValueError, match="must be integers"):
        zeroshot_accuracy(eye, torch.tensor([0.0, 1.0]), eye)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        zeroshot_accuracy(eye, torch.tensor([0]), eye)
