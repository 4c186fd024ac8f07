"""Galleries of what a model does best and worst on a user's data."""

import json

import torch
from PIL import Image

from common.engine.own_texts import show_queries
from common.engine.workspace import Workspace
from common.evaluation.retrieval.beir import RetrievalSet
from common.families.image_text import pairs
from common.families.image_text.own_data import show_classes


def shown(workspace, title):
    return json.loads((workspace.path / "gallery" / title / "gallery.json").read_text())


def test_queries_by_their_ndcg(tmp_path):
    corpus = {"a": "first", "b": "second"}
    queries = {"p": "poor", "g": "good"}
    data = RetrievalSet(corpus, queries, {"p": {"a": 1}, "g": {"b": 2}})
    run = {"p": {"b": 2.0, "a": 1.0}, "g": {"b": 3.0}}
    workspace = Workspace(tmp_path, "p", "c")
    show_queries(data, run, [0.6, 1.0], workspace, "mine")
    texts = {
        title: [row["query"]["text"] for row in shown(workspace, f"{title} queries mine")]
        for title in ("best", "worst")
    }
    assert texts == {"best": ["good", "poor"], "worst": ["poor", "good"]}
    poor = shown(workspace, "worst queries mine")[0]["results"]
    assert [(r["item"]["text"], r["correct"]) for r in poor] == [("second", False), ("first", True)]


def images(tmp_path, names):
    paths = [tmp_path / f"{name}.png" for name in names]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    return paths


def test_images_by_how_far_their_class_is_ahead(tmp_path):
    paths = images(tmp_path, "abc")
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.8, 0.1]])
    workspace = Workspace(tmp_path / "eval", "p", "c")
    show_classes(workspace, scores, torch.tensor([0, 0, 1]), ["cat", "dog"], paths)
    worst, best = (shown(workspace, f"{kind} images") for kind in ("worst", "best"))
    assert [r["correct"] for r in worst[0]["results"]] == [False, True]  # c, behind by .7
    assert worst[0]["results"][0]["item"] == {"text": "cat"}
    assert [row["results"][0]["correct"] for row in best] == [True, False, False]


def test_captions_by_the_rank_of_their_image(tmp_path):
    paths = images(tmp_path, "ab")
    held = pairs.HeldOutPairs(paths, ["one", "two"], torch.tensor([0, 1]))
    vectors = torch.eye(2)
    workspace = Workspace(tmp_path / "eval", "p", "c")
    pairs.show_extremes(workspace, vectors, vectors[[0, 0]], held, torch.tensor([1, 2]))
    assert shown(workspace, "best captions")[0]["query"]["text"] == "one (rank 1)"
    worst = shown(workspace, "worst captions")[0]
    assert worst["query"]["text"] == "two (rank 2)"
    assert [r["correct"] for r in worst["results"]] == [False, True]
