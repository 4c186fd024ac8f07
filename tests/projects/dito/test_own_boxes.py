"""``eval.own``: a user's annotated images, with made-up answers in place of a model."""

import json

import pytest
import torch
from PIL import Image

from common.config import UserError
from common.engine.workspace import Workspace
from projects.dito import own_boxes
from projects.dito.detector import Detections
from projects.dito.network import DitoNetwork
from tests.projects.dito.conftest import config, module_of


@pytest.fixture
def own(tmp_path):
    """Five images in `images/`, the last without a box; the second cannot be read."""
    (tmp_path / "images").mkdir()
    rows = [(0, 3), (0, 3), (1, 8), (2, 3), (2, 8), (3, 8)]
    for i in range(5):
        Image.new("RGB", (64, 128)).save(tmp_path / f"images/{i}.png")
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(5)],
        "annotations": [
            {"image_id": i, "category_id": c, "bbox": [16, 32, 32, 64]} for i, c in rows
        ],
        "categories": [
            {"id": 3, "name": "cat"},
            {"id": 8, "name": "dog"},
            {"id": 9, "name": "elk"},
        ],
    }
    (tmp_path / "own.json").write_text(json.dumps(content))
    return tmp_path / "own.json"


def test_boxes_of_one_s_own_are_named_and_found(own, monkeypatch, tmp_path):
    """Images without a box or unreadable have no part; boxes are in pixels of the model's input;
    an untrained model has no head to ask."""
    module, seen, shown = module_of("detect"), [], {}
    answers = {"head": [[0, 1], [0, 1], [0]], "map": [[1, 1], [1, 1], [1]]}

    def regions(network, images, boxes, kind):
        seen.append((kind, tuple(images.shape), boxes[0, 0].tolist()))
        return torch.eye(3)[answers[kind].pop(0)][None]

    def detected(network, images, classes, score, base):
        box = torch.tensor([[4.0, 8, 12, 24]])  # a quarter of the file's pixels
        return [Detections(box, torch.tensor([1]), torch.ones(1))]

    monkeypatch.setattr(DitoNetwork, "classes", lambda self, names, _: torch.eye(4)[:, 1:])
    monkeypatch.setattr(own_boxes, "regions_of", regions)
    monkeypatch.setattr(own_boxes, "detect", detected)
    monkeypatch.setattr(own_boxes, "readable", lambda paths, say: [0, 2, 3])
    monkeypatch.setattr(Workspace, "gallery", lambda self, title, rows: shown.update({title: rows}))
    monkeypatch.setattr(own_boxes, "SHOWN", 1)
    work = Workspace(tmp_path / "w")
    actual = own_boxes.judge_boxes(config("method.stages=[detect]"), module, work, own)
    assert actual == {
        "num_images": 3,
        "num_boxes": 5,
        "num_classes": 3,
        "num_skipped": 2,
        "region_top1": 3 / 5,
        "region_top1_chance": 1 / 3,
        "untrained_region_top1": 2 / 5,
        "majority_region_top1": 3 / 5,
        "box_recall": 1,
    }
    assert {kind for kind, *_ in seen} == {"head", "map"}
    assert {shape for _, shape, _ in seen} == {(1, 3, 32, 32)}
    assert all(box == [4, 8, 12, 24] for *_, box in seen)
    assert json.loads((work.folder("items") / "region_top1.json").read_text()) == [0.5, 1, 0]
    best, worst = (shown[f"{name} images"][0]["results"] for name in ("best", "worst"))
    assert [row["correct"] for row in best] == [True, True]
    assert [(row["item"], row["name"]) for row in worst] == [("dog", "named cat")]


def test_a_file_with_nothing_to_tell_apart_is_refused(own, tmp_path):
    content = json.loads(own.read_text()) | {"annotations": []}
    own.write_text(json.dumps(content))
    with pytest.raises(UserError, match="boxes of two categories"):
        own_boxes.judge_boxes(config(), module_of("detect"), Workspace(tmp_path), own)
