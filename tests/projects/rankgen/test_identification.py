"""Suffix identification and the readers of its sets."""

import json

import pytest
import torch

from common.config import UserError
from projects.rankgen.identification import (
    Identification,
    beaten,
    identification_metrics,
    load_identification,
)


def test_pairwise_and_all_accuracy():
    gold = torch.tensor([2.0, 2.0, 0.0])
    other = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 1.0]])  # a tie is half a win
    assert beaten(gold, other).tolist() == [[1, 1], [1, 0.5], [0, 0]]
    metrics = identification_metrics(gold, other)
    assert metrics["pairwise"] == pytest.approx(3.5 / 6)
    assert metrics["all"] == pytest.approx(1 / 3)
    assert metrics["all_chance"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"need \(N,\) and \(N, K\)"):
        beaten(gold, other[:2])


def test_three_formats(tmp_path):
    rows = [
        {"prefix": "p", "suffix": "gold", "negatives": ["x", "y"]},
        {"prefix": "q", "targets": ["gold"], "negatives": ["x", "y"]},
    ]
    released = tmp_path / "released.jsonl"
    released.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_identification(released)[1] == Identification("q", "gold", ["x", "y"])
    swag = tmp_path / "hellaswag.jsonl"
    swag.write_text(json.dumps({"ctx": "c", "endings": ["a", "b", "c", "d"], "label": 2}) + "\n")
    assert load_identification(swag) == [Identification("c", "c", ["a", "b", "d"])]
    story = tmp_path / "story.csv"
    names = [f"InputSentence{i}" for i in range(1, 5)]
    quiz = ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    story.write_text(",".join([*names, *quiz]) + "\nA.,B.,C.,D.,right,wrong,1\n")
    assert load_identification(story) == [Identification("A. B. C. D.", "right", ["wrong"])]


def test_mistakes_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prefix": "p"}\n')
    with pytest.raises(UserError, match="neither prefix, suffix and negatives"):
        load_identification(path)
    rows = [{"prefix": "p", "suffix": "g", "negatives": n} for n in (["a"], ["a", "b"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="one common number of negatives"):
        load_identification(path)
