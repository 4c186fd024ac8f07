"""Average precision of boxes or masks by the protocols of COCO and LVIS, through faster-coco-eval.

The library is optional (group `eval`); its figures are those of pycocotools and of the LVIS API.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.config import UserError

Style = Literal["coco", "lvis"]
LVIS_DETECTIONS = 300  # of an image, over all classes
AREAS = ("small", "medium", "large")
RANGES = (
    (0, 1e10),
    (0, 32**2),
    (32**2, 96**2),
    (96**2, 1e10),
)  # of all and of AREAS, ends included


def box_metrics(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    style: Style = "coco",
    groups: Mapping[str, Sequence[int]] | None = None,
    kind: Literal["bbox", "segm"] = "bbox",
    max_detections: int = 100,
) -> dict[str, float]:
    """Average precision over IoU .5 to .95, at .5 and .75, by object size and group of classes.

    Source: Lin et al. 2014, "Microsoft COCO", arXiv 1405.0312, and its API; Gupta et al. 2019,
    "LVIS", arXiv 1908.03195, and its API (classes that an image was not checked for are left out
    there, 300 detections an image).

    Args:
        truth: content of an annotation file: ``images``, ``annotations``, ``categories``.
        detections: ``image_id``, ``category_id``, ``bbox`` as x, y, width, height, ``score``; with
            `kind` "segm" also ``segmentation`` in plain run lengths (``size`` and ``counts``).
        style: "lvis" adds ``ap_r``, ``ap_c``, ``ap_f`` of rare, common and frequent classes.
        groups: name -> category ids: ``ap_<name>`` and ``ap50_<name>`` are means over these
            classes.
        kind: boxes or masks.
        max_detections: of an image and a class, with "coco".

    Returns:
        Figures in [0, 1]; nan where there is no object.

    Raises:
        UserError: the library is not installed.
    """
    api = _library()
    content = {
        **truth,
        "annotations": [_complete(a, i) for i, a in enumerate(truth["annotations"], 1)],
    }
    content.setdefault("info", {})
    gold = api.COCO(deepcopy(content))
    results = [dict(d) if kind == "bbox" else _mask_of(d, api) for d in detections]
    if style == "lvis":
        results = best_of_each_image(results, LVIS_DETECTIONS)
    if not results:  # the library reads no empty list
        precision = _nothing_found(content)
    else:
        judged = api.COCOeval_faster(
            gold, gold.loadRes(results), kind, lvis_style=style == "lvis", print_function=_silent
        )
        judged.params.maxDets = [LVIS_DETECTIONS] if style == "lvis" else [1, 10, max_detections]
        judged.evaluate()
        judged.accumulate()
        precision = np.asarray(judged.eval["precision"])[..., -1]  # T, R, K, A
    ids = sorted(c["id"] for c in content["categories"])
    out = {"ap": _mean(precision[..., 0]), "ap50": _mean(precision[0, ..., 0])}
    out["ap75"] = _mean(precision[5, ..., 0])
    out |= {f"ap_{name}": _mean(precision[..., i + 1]) for i, name in enumerate(AREAS)}
    members_of = dict(groups or {})
    if style == "lvis":
        of: dict[str, list[int]] = {"r": [], "c": [], "f": []}
        for c in content["categories"]:
            of[c["frequency"]].append(c["id"])
        members_of = {**of, **members_of}
    for name, members in members_of.items():
        places = [ids.index(i) for i in members]
        out[f"ap_{name}"] = _mean(precision[:, :, places, 0])
        out[f"ap50_{name}"] = _mean(precision[0][:, places, 0])
    return out


def check_library() -> None:
    """Refuse what ends in `box_metrics` before the work that comes first.

    Raises:
        UserError: the library is not installed.
    """
    _library()


def best_of_each_image(detections: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The `count` detections of highest score of every image, as the LVIS API keeps them."""
    of: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for d in detections:
        of[d["image_id"]].append(d)
    return [
        d
        for detections in of.values()
        for d in sorted(detections, key=lambda d: -d["score"])[:count]
    ]


def _complete(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """With the fields that the library reads and small files leave out."""
    w, h = annotation["bbox"][2:]
    return {"id": number, "iscrowd": 0, "area": w * h, **annotation}


def _mask_of(detection: Mapping[str, Any], api: Any) -> dict[str, Any]:
    """Without its box, as small, medium and large are told by the area of the mask."""
    plain = detection["segmentation"]
    coded = api.mask.frPyObjects(plain, *plain["size"])
    return {k: v for k, v in detection.items() if k != "bbox"} | {"segmentation": coded}


def _nothing_found(content: Mapping[str, Any]) -> NDArray[np.float64]:
    """Precision without detections: 0, or -1 where a class has no object of a size."""
    place = {c: k for k, c in enumerate(sorted(c["id"] for c in content["categories"]))}
    precision = np.full((10, 101, len(place), len(RANGES)), -1.0)  # T, R, K, A
    for a in content["annotations"]:
        if a["category_id"] in place and not a["iscrowd"]:
            sizes = [i for i, (low, high) in enumerate(RANGES) if low <= a["area"] <= high]
            precision[:, :, place[a["category_id"]], sizes] = 0
    return precision


def _mean(values: Any) -> float:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _silent(*_: Any) -> None:
    return None


def _library() -> Any:
    try:
        import faster_coco_eval
    except ImportError as error:
        raise UserError(
            "average precision needs faster-coco-eval: install the 'eval' group, or set"
            " eval.detections=false"
        ) from error
    return faster_coco_eval
