"""What text classification shares: soft targets, mixup, metrics, separation, classifiers,
baselines.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.config import UserError
from common.data.text.labelled.readers import LabelledSet, distinct, texts_of_lines
from common.data.text.labelled.tasks import TASKS
from common.encoders.text.tuned.classifier import Tuning, blocks, text_classifier
from common.evaluation.text.classes import score_classes
from projects.peft_augmentation.augmentation.copies import text_rng
from projects.peft_augmentation.augmentation.eda import altered
from projects.peft_augmentation.classification.config import ClassifierEval, LabelledData
from projects.peft_augmentation.classification.evaluation import evaluate_classifier
from projects.peft_augmentation.classification.module import class_names, scored_part
from projects.peft_augmentation.separation import class_separation
from projects.peft_augmentation.soft_targets import mixer, mixture, soft_cross_entropy

CONFIG = {
    "model_type": "bert",
    "vocab_size": 256,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}


def test_own_texts_are_lines_of_a_file_in_utf_8(tmp_path):
    """Blank lines shifted the predictions without a word; a text was cut at U+2028; Latin-1 was a
    traceback.
    """
    file = tmp_path / "in.txt"
    file.write_bytes("\ufeffone\u2028more\r\n\r\ntwo\r\n\r\n".encode())
    with pytest.warns(UserWarning, match="1 blank lines between texts are left out"):
        assert texts_of_lines(str(file), 1, "x") == [("one\u2028more",), ("two",)]
    file.write_bytes(b"one\rstill one\ntwo\n")  # a line ends at a line feed
    assert texts_of_lines(str(file), 1, "x") == [("one\rstill one",), ("two",)]
    file.write_text("a\tb\nc\t\n")
    assert texts_of_lines(str(file), 2, "x") == [("a", "b"), ("c", "")]
    file.write_bytes("caf\u00e9\n".encode("latin-1"))
    for place, said in (
        (file, "not a text file in UTF-8"),
        (tmp_path / "gone.txt", "x: there is no"),
    ):
        with pytest.raises(UserError, match=said):
            texts_of_lines(str(place), 1, "x")


def test_soft_targets_that_are_hard_give_cross_entropy():
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    hard = F.one_hot(labels, 3).double()
    want = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, hard), want)
    soft = torch.full((5, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    logits.requires_grad_()
    soft_cross_entropy(logits, soft).sum().backward()
    assert soft.grad is None  # targets are given
    torch.testing.assert_close(logits.grad, logits.softmax(1) - 1 / 3)
    with pytest.raises(ValueError, match="differ"):
        soft_cross_entropy(logits, soft[:, :2])


def test_shares_of_mixtures():
    torch.manual_seed(0)
    share, partner = mixture(6, 0.3, each=False)
    assert share.unique().numel() == 1
    assert sorted(partner.tolist()) == list(range(6))
    share, _ = mixture(6, 0.3, each=True)
    assert share.unique().numel() == 6
    assert float(share.min()) >= 0
    assert float(share.max()) <= 1
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(mixer(torch.ones(6), partner)(x), x)
    torch.testing.assert_close(mixer(torch.zeros(6), partner)(x), x[partner])


def test_metrics_of_classes():
    """Hand-made; macro F1 leaves out a class that never occurs."""
    actual = score_classes([0, 0, 1, 2], [0, 1, 1, 2], 4)
    assert actual == {"accuracy": 0.75, "macro_f1": pytest.approx((2 / 3 + 2 / 3 + 1) / 3)}
    two = score_classes([1, 1, 0, 0, 0], [1, 0, 0, 0, 1], 2)
    assert two["f1"] == 0.5
    assert two["matthews"] == pytest.approx(np.corrcoef([1, 1, 0, 0, 0], [1, 0, 0, 0, 1])[0, 1])
    assert score_classes([0, 0], [0, 1], 2)["matthews"] == 0
    with pytest.raises(ValueError, match="do not fit"):
        score_classes([0], [0, 1], 2)


def test_silhouette_is_that_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(9, 4, generator=generator), torch.tensor([0, 0, 0, 5, 5, 5, 7, 7, 7])
    distance = 1 - F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    rows = []
    for i in range(9):
        own = (labels == labels[i]) & (torch.arange(9) != i)
        a = distance[i, own].mean()
        b = min(distance[i, labels == c].mean() for c in labels.unique() if c != labels[i])
        rows.append((b - a) / max(a, b))
    actual = class_separation(x, labels)
    assert actual["silhouette"] == pytest.approx(float(torch.stack(rows).mean()), abs=1e-5)
    spread = class_separation(torch.cat([x, 3 * x]), labels.repeat(2))
    assert spread["separation_ratio"] == pytest.approx(
        actual["separation_ratio"]
    )  # lengths are no matter
    with pytest.raises(ValueError, match="two to N - 1"):
        class_separation(x, torch.zeros(9))


def test_each_text_counts_once():
    data = LabelledSet([("a",), ("b",), ("a",)], np.array([1, 0, 0]), ("x", "y"))
    assert distinct(data).texts == [("a",), ("b",)]
    assert distinct(data).labels.tolist() == [1, 0]


def test_alterations_grow_and_are_the_same_every_time():
    text = " ".join(f"x{c}" for c in "abcdefghijklmnopqrst")
    left = []
    for alpha in (0.0, 0.1, 0.5):
        actual = altered(text, alpha, text_rng(0, 0, text))
        assert actual == altered(text, alpha, text_rng(0, 0, text))
        left.append(len(actual.split()))
        assert set(actual.split()) <= set(text.split())
        assert (actual == text) == (alpha == 0)
    assert left[0] == 20
    assert left[2] < left[1]
    assert altered("10/10", 0.5, text_rng(0, 0, "")) == "10/10"


def test_pairs_have_segments_and_single_texts_none():
    model = text_classifier("random", ["a", "b"], config=CONFIG, max_length=12).eval()
    pair = model.pad(model.rows([("the old cat", "sleeps"), ("a", "b")]))
    assert set(pair) == {"input_ids", "attention_mask", "token_type_ids"}
    assert int(pair["token_type_ids"].max()) == 1
    assert set(model.pad(model.rows([("a",)]))) == {"input_ids", "attention_mask"}
    assert (
        max(len(row["input_ids"]) for row in model.rows([("a b c d e f g h", "i j k l m n o p q")]))
        <= 12
    )
    assert model.predict(["a", "b"]) == model.predict([("a",), ("b",)])
    with pytest.raises(ValueError, match="one text, or of two"):
        model.rows([])
    assert len(blocks(model.backbone)) == 2


def test_evaluation_leaves_items_of_every_copy():
    class Workspace:
        def __init__(self):
            self.saved = {}

        def items(self, name, values):
            self.saved[name] = values

    tuning = Tuning("prefix", prefix_length=2)
    model = text_classifier(
        "random", TASKS["synthetic"].labels, tuning, config=CONFIG, max_length=24
    )
    texts = [("the cat sees a dog",), ("rain and wind",), ("bank and coin",)] * 2
    data = LabelledSet(texts, np.array([0, 1, 2] * 2), model.classes)
    space = Workspace()
    actual = evaluate_classifier(
        model, data, TASKS["synthetic"], ClassifierEval(alterations=[0.5]), space
    )  # type: ignore[arg-type]
    assert set(space.saved) == {"test_accuracy", "test_accuracy_altered_0.5"}
    assert actual["test_accuracy"] == np.mean(space.saved["test_accuracy"])
    assert actual["robustness_0.5"] == pytest.approx(
        actual["test_accuracy_altered_0.5"] - actual["test_accuracy"]
    )
    assert "test_silhouette_altered_0.5" in actual
    with pytest.raises(UserError, match="empty"):
        LabelledSet([], np.array([]), model.classes)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 1, 2], [0]])
def test_classes_that_cannot_be_separated_leave_the_other_metrics(labels, caplog):
    """A test file of one class, or of one text a class: known only after the training."""
    model = text_classifier(
        "random",
        TASKS["synthetic"].labels,
        Tuning("prefix", prefix_length=2),
        config=CONFIG,
        max_length=24,
    )
    texts = [("the cat sees a dog",), ("rain and wind",), ("bank and coin",)][: len(labels)]
    data = LabelledSet(texts, np.array(labels), model.classes)
    actual = evaluate_classifier(model, data, TASKS["synthetic"], ClassifierEval(alterations=[0.5]))
    assert {"test_accuracy", "test_accuracy_altered_0.5"} <= set(actual)
    assert not any("silhouette" in name for name in actual)
    assert "eval.separation is left out" in caplog.text
    caplog.clear()
    evaluate_classifier(model, data, TASKS["synthetic"], ClassifierEval(separation=False))
    assert not caplog.text


def test_the_classes_of_an_own_test_file_are_those_of_training(tmp_path):
    """Sorted anew from the test file, they gave other numbers to the same names."""
    (tmp_path / "train.csv").write_text("text,label\none,a\ntwo,b\nthree,c\n")
    (tmp_path / "test.csv").write_text("text,label\nfour,c\nfive,b\n")
    files = {part: str(tmp_path / f"{part}.csv") for part in ("train", "test")}
    data = LabelledData(task="file", train_file=files["train"], test_file=files["test"])
    cfg = SimpleNamespace(data=data, eval=ClassifierEval(), seed=0)
    actual = scored_part(cfg)
    assert actual.classes == class_names(data) == ("a", "b", "c")
    assert actual.labels.tolist() == [2, 1]
    (tmp_path / "test.csv").write_text("text,label\nfour,d\n")
    with pytest.raises(UserError, match=r"test\.csv: label 'd'"):
        scored_part(cfg)
