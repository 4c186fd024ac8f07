"""A classifier on a user's labelled texts, next to what needs no neural network."""

import json

import numpy as np
import pytest

from common.config import UserError
from common.data.text.labelled.readers import LabelledSet
from common.engine.own_classes import judge_classes
from common.engine.workspace import Workspace

CLASSES = ("animals", "weather")
TRAIN = LabelledSet(
    [("a cat",), ("a dog",), ("some rain",), ("some snow",), ("a fish",)],
    np.array([0, 0, 1, 1, 0]),
    CLASSES,
)


def test_counts_scores_and_galleries(tmp_path, capsys):
    rows = "cat,animals\nrain,weather\nsnow,weather\n,weather\nx,Other\ndog,ANIMALS\n"
    (tmp_path / "own.csv").write_text(f"text,label\n{rows}", encoding="utf-8")

    def trained(texts):
        assert texts == [("cat",), ("rain",), ("snow",), ("dog",)]
        return np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])

    table = {"": trained, "untrained_": lambda texts: np.full((len(texts), 2), 0.5)}
    workspace = Workspace(tmp_path / "eval", "p", "c")
    metrics = judge_classes(
        table, lambda: TRAIN, CLASSES, workspace, tmp_path / "own.csv", str.lower
    )
    assert (metrics["num_texts"], metrics["num_classes"], metrics["num_skipped"]) == (4, 2, 2)
    assert (metrics["accuracy"], metrics["accuracy_chance"]) == (0.75, 0.5)
    assert metrics["untrained_accuracy"] == metrics["majority_accuracy"] == 0.5  # all animals
    assert metrics["tfidf_words_accuracy"] == 1.0
    said = capsys.readouterr()
    assert "1 rows have no text or no label; labels that training did not have" in said.out
    assert "left out: other" in said.out
    assert json.loads((tmp_path / "eval/items/accuracy.json").read_text()) == [1, 1, 0, 1]
    worst = json.loads((tmp_path / "eval/gallery/worst texts/gallery.json").read_text())
    assert worst[0]["query"] == {"text": "snow (weather)"}
    assert [r["correct"] for r in worst[0]["results"]] == [False, True]


def test_labels_of_another_task_are_refused(tmp_path):
    (tmp_path / "own.csv").write_text("text,label\ncat,1\ndog,2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"none of its labels \(1, 2\) is one of the 2 that"):
        judge_classes({}, lambda: TRAIN, CLASSES, Workspace(tmp_path), tmp_path / "own.csv")
