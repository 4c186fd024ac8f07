"""Average precision of boxes: figures of pycocotools and of the LVIS API, recorded on a fixture."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from common.config import UserError
from projects.dito.detection import coco_boxes
from projects.dito.detection.coco_boxes import best_of_each_image, box_metrics


def fixture() -> tuple[dict, list[dict]]:
    """Thirty images of eight classes; boxes moved, missed and made up by a seed."""
    rng = np.random.default_rng(7)
    truth: dict = {
        "images": [
            {
                "id": i,
                "height": 200,
                "width": 200,
                "neg_category_ids": [1, 2],
                "not_exhaustive_category_ids": [3] if i % 3 == 0 else [],
            }
            for i in range(1, 31)
        ],
        "annotations": [],
        "categories": [{"id": c, "name": f"c{c}", "frequency": "rcf"[c % 3]} for c in range(1, 9)],
    }
    actual = []
    for image in range(1, 31):
        for _ in range(rng.integers(1, 6)):
            w, h = (float(round(v, 3)) for v in rng.uniform(8, 120, 2))
            x, y = (
                float(round(rng.uniform(0, 200 - w), 3)),
                float(round(rng.uniform(0, 200 - h), 3)),
            )
            c = int(rng.integers(1, 8))  # class 8 has no object
            crowd = int(rng.random() < 0.05)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": c,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": crowd,
                }
            )
            if rng.random() < 0.85:
                dx, dy, dw, dh = rng.normal(0, 0.08, 4)
                kind = c if rng.random() < 0.85 else int(rng.integers(1, 9))
                box = [
                    float(round(v, 3)) for v in (x + dx * w, y + dy * h, w * (1 + dw), h * (1 + dh))
                ]
                actual.append(
                    {
                        "image_id": image,
                        "category_id": kind,
                        "bbox": box,
                        "score": float(round(rng.uniform(0.2, 1), 4)),
                    }
                )
        for _ in range(rng.integers(0, 4)):
            box = [float(round(v, 3)) for v in (*rng.uniform(0, 100, 2), *rng.uniform(10, 90, 2))]
            actual.append(
                {
                    "image_id": image,
                    "category_id": int(rng.integers(1, 9)),
                    "bbox": box,
                    "score": float(round(rng.uniform(0, 0.7), 4)),
                }
            )
    return truth, actual


# recorded on this fixture from pycocotools 2.0.11 and lvis 0.5.3
COCO = {
    "ap": 0.3396010481900531,
    "ap50": 0.6238771551224751,
    "ap75": 0.32154424626136086,
    "ap_small": 0.48190319031903184,
    "ap_medium": 0.3174616127232817,
    "ap_large": 0.5125412541254125,
    "ap50_base": 0.6355030093345468,
    "ap50_novel": 0.6083760161730458,
}
LVIS = {
    "ap": 0.365482441101253,
    "ap50": 0.6716170596651502,
    "ap75": 0.335586875014032,
    "ap_r": 0.3933828382838284,
    "ap_c": 0.3239380485667614,
    "ap_f": 0.3998986327204149,
    "ap_small": 0.5258663366336633,
    "ap_medium": 0.3429931972789116,
    "ap_large": 0.3844059405940594,
}


def test_coco_figures_are_those_of_pycocotools():
    """AP, AP50, AP75 and sizes; a class without an object has no part."""
    pytest.importorskip("faster_coco_eval", reason="group eval")
    truth, actual = fixture()
    got = box_metrics(truth, actual, groups={"base": [1, 2, 3, 4], "novel": [5, 6, 7]})
    for name, value in COCO.items():
        assert got[name] == pytest.approx(value, abs=1e-9), name
    none = box_metrics(truth, [])
    assert none["ap"] == 0
    assert math.isnan(box_metrics(truth, actual, groups={"absent": [8]})["ap_absent"])


def sizes() -> dict:
    """Class 1 with a small and a middling object, class 2 with a crowd, class 3 on the edge of two
    sizes.
    """
    rows = [(1, 10, 10, 0), (1, 50, 50, 0), (2, 50, 50, 1), (3, 32, 32, 0)]
    return {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "category_id": c,
                "bbox": [0, 0, w, h],
                "area": w * h,
                "iscrowd": crowd,
            }
            for i, (c, w, h, crowd) in enumerate(rows, 1)
        ],
        "categories": [{"id": c, "name": f"c{c}"} for c in (1, 2, 3)],
    }


GROUPS = {"sized": [1], "crowd": [2], "edge": [3]}


def test_without_detections_only_what_has_objects_is_zero(monkeypatch):
    """No detection is found neither among objects of a size that there are none of, nor in
    crowds."""
    monkeypatch.setattr(coco_boxes, "_library", lambda: SimpleNamespace(COCO=lambda content: None))
    got = box_metrics(sizes(), [], groups=GROUPS)
    zero = {
        "ap",
        "ap50",
        "ap75",
        "ap_small",
        "ap_medium",
        "ap_sized",
        "ap50_sized",
        "ap_edge",
        "ap50_edge",
    }
    assert {name for name, value in got.items() if value == 0} == zero
    assert all(math.isnan(value) for name, value in got.items() if name not in zero)
    edge = sizes() | {"annotations": sizes()["annotations"][3:]}
    got = box_metrics(edge, [])
    assert got["ap_small"] == got["ap_medium"] == 0  # both ends of a range are in it


def test_without_detections_figures_are_those_of_a_hopeless_one():
    pytest.importorskip("faster_coco_eval", reason="group eval")
    hopeless = [{"image_id": 1, "category_id": 2, "bbox": [150, 150, 9, 9], "score": 0.1}]
    for truth in (sizes(), sizes() | {"annotations": sizes()["annotations"][3:]}):
        expected = box_metrics(truth, hopeless, groups=GROUPS)
        assert box_metrics(truth, [], groups=GROUPS) == pytest.approx(expected, nan_ok=True)


def test_lvis_figures_are_those_of_the_lvis_api():
    """Detections of classes that an image was not checked for do not count; rare, common,
    frequent."""
    pytest.importorskip("faster_coco_eval", reason="group eval")
    truth, actual = fixture()
    for a in truth["annotations"]:
        a["iscrowd"] = 0
    got = box_metrics(truth, actual, style="lvis")
    for name, value in LVIS.items():
        assert got[name] == pytest.approx(value, abs=1e-9), name


def test_lvis_keeps_the_best_of_each_image():
    rows = [{"image_id": i % 2, "score": float(i)} for i in range(10)]
    kept = best_of_each_image(rows, 2)
    assert sorted(r["score"] for r in kept) == [6, 7, 8, 9]


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match="faster-coco-eval"):
        box_metrics(*fixture())
    with pytest.raises(UserError, match="faster-coco-eval"):
        coco_boxes.check_library()
    assert coco_boxes.LVIS_DETECTIONS == 300
