"""Annotated images in the formats of COCO and LVIS, and the classes that the detector never sees.

# S side of the square input
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from common.config import UserError
from common.data.decode import decode_image
from common.data.image import sources as im
from common.data.lookup import data_root, require
from common.data.samplers import Rng
from projects.dito.config import DitoData
from projects.dito.detection.mask_head import STORED, draw_mask

# Bansal et al. 2018, "Zero-Shot Object Detection", arXiv 1804.04340: 48 base and 17 novel classes
COCO_NOVEL = frozenset(
    [
        "airplane",
        "bus",
        "cat",
        "dog",
        "cow",
        "elephant",
        "umbrella",
        "tie",
        "snowboard",
        "skateboard",
        "cup",
        "knife",
        "cake",
        "couch",
        "keyboard",
        "sink",
        "scissors",
    ]
)
COCO_BASE = frozenset(
    [
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "train",
        "truck",
        "boat",
        "bench",
        "bird",
        "horse",
        "sheep",
        "bear",
        "zebra",
        "giraffe",
        "backpack",
        "handbag",
        "suitcase",
        "frisbee",
        "skis",
        "kite",
        "surfboard",
        "bottle",
        "fork",
        "spoon",
        "bowl",
        "banana",
        "apple",
        "sandwich",
        "orange",
        "broccoli",
        "carrot",
        "pizza",
        "donut",
        "chair",
        "bed",
        "toilet",
        "tv",
        "laptop",
        "mouse",
        "remote",
        "microwave",
        "oven",
        "toaster",
        "refrigerator",
        "book",
        "clock",
        "vase",
        "toothbrush",
    ]
)
SOURCE = "https://cocodataset.org (annotations, train2017, val2017) or https://www.lvisdataset.org"
LAYOUT = "a JSON file with images, annotations (bbox as x, y, width, height) and categories"


Outlines = list[NDArray[np.float64]]  # polygons (P, 2) of one object, x and y in pixels


class Annotated(NamedTuple):
    """One image with its boxes."""

    id: int
    file: str
    boxes: Tensor  # (G, 4) x1, y1, x2, y2 in pixels of the file
    labels: Tensor  # (G,) int64, from 1 in the order of `CocoSet.categories`
    outlines: list[Outlines]  # G, where masks are read


class CocoSet(NamedTuple):
    """Images of a file and its categories, in the order of their ids."""

    images: list[Annotated]
    categories: list[int]  # ids
    names: list[str]
    base: list[bool]  # trained with boxes


class Jittered(NamedTuple):
    """An image as it is trained on."""

    pixels: Tensor  # (3, S, S), normalised
    boxes: Tensor  # (G, 4) in its pixels
    labels: Tensor  # (G,)
    masks: Tensor  # (G, 112, 112) bool, each inside its box; (0, 112, 112) without outlines


def read_coco(path: Path, novel: str, *, training: bool, masks: bool = False) -> CocoSet:
    """A file of COCO or LVIS.

    Args:
        path: the JSON file.
        novel: "lvis": rare classes are novel; "coco": 48 base and 17 novel classes, the others are
            left out; "none": all are base.
        training: leave out boxes of novel classes, and images without a box; crowds are left out
            in any case.
        masks: also the outlines of the objects.

    Raises:
        UserError: no such file, another format, or an object without polygons for `masks`.
    """
    require(path, what=path.name, layout=LAYOUT, source=SOURCE, size="0.02-1.2 GB")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kinds = sorted(content["categories"], key=lambda c: c["id"])
        if novel == "coco":
            kinds = [c for c in kinds if c["name"] in COCO_BASE | COCO_NOVEL]
        base = [_is_base(c, novel) for c in kinds]
        place = {c["id"]: i + 1 for i, c in enumerate(kinds)}
        annotations: dict[int, list[Any]] = defaultdict(list)
        for a in content["annotations"]:
            number = place.get(a["category_id"])
            unwanted = number is None or a.get("iscrowd", 0) or (training and not base[number - 1])
            if not unwanted and min(a["bbox"][2:]) > 0:
                outlines = _outlines(a, path) if masks else []
                annotations[a["image_id"]].append((a["bbox"], number, outlines))
        images = [_annotated(i, annotations[i["id"]]) for i in content["images"]]
        names = [c["name"].replace("_", " ") for c in kinds]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path} is not an annotation file of COCO or LVIS ({error!r}): {LAYOUT}"
        ) from error
    if training:  # item 10: novel boxes are no targets; images left without any are no samples
        images = [i for i in images if len(i.labels)]
    return CocoSet(images, [c["id"] for c in kinds], names, base)


def _is_base(category: dict[str, Any], novel: str) -> bool:
    if novel == "lvis":
        return bool(category["frequency"] != "r")
    return novel == "none" or category["name"] in COCO_BASE


def _outlines(annotation: dict[str, Any], path: Path) -> Outlines:
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not polygons:
        raise UserError(
            f"{path}: annotation {annotation['id']} has no polygons in segmentation; set"
            " model.masks=false to train without masks"
        )
    return [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]


def _annotated(
    image: dict[str, Any], objects: Sequence[tuple[Sequence[float], int, Outlines]]
) -> Annotated:
    file = image.get("file_name") or "/".join(
        image["coco_url"].split("/")[-2:]
    )  # LVIS has no file_name
    if not isinstance(file, str):
        raise TypeError(f"the file_name {file!r} is not a text")
    corners = [(x, y, x + w, y + h) for (x, y, w, h), *_ in objects]
    return Annotated(
        image["id"],
        file,
        torch.tensor(corners).view(-1, 4).float(),
        torch.tensor([number for _, number, _ in objects], dtype=torch.long),
        [outlines for *_, outlines in objects],
    )


def folder_of(data: DitoData, training: bool) -> Path:
    """Folder of the images."""
    named = data.train_images if training else data.eval_images
    return data_root(data.root) / str(named or "")


def annotation_path(data: DitoData, training: bool) -> Path:
    """The annotation file.

    Raises:
        UserError: none is named.
    """
    named = data.train_json if training else data.eval_json
    if named is None:
        raise UserError(f"set data.{'train' if training else 'eval'}_json, an annotation file")
    return data_root(data.root) / named


def require_judged(data: DitoData) -> None:
    """Tell before training what would be wrong with the annotation file that is judged.

    Raises:
        UserError: no such file, another format, no image, or its first one cannot be read.
    """
    path = annotation_path(data, False)
    images = read_coco(path, data.novel, training=False).images
    if not images:
        raise UserError(f"{path} names no image")
    opened(folder_of(data, False) / images[0].file)


def opened(path: Path) -> Image.Image:
    """A picture as RGB.

    Raises:
        UserError: no such file, or no image.
    """
    try:
        return decode_image(path).convert("RGB")
    except ValueError as error:
        raise UserError(f"cannot read {path} as an image: {error}") from error


def to_square(image: Image.Image, size: int) -> tuple[Tensor, float]:
    """Longer side to `size`, padded at the right and at the bottom with the mean colour.

    Returns:
        (3, size, size) float32, normalised, and the factor from pixels of the file.
    """
    factor = size / max(image.size)
    pixels = _resized(image, factor)
    return _padded(pixels, size), factor


def jittered(
    image: Image.Image,
    boxes: Tensor,
    labels: Tensor,
    size: int,
    jitter: tuple[float, float],
    rng: Rng,
    outlines: Sequence[Outlines] = (),
) -> Jittered:
    """Large-scale jitter and flip: resize to a random scale of the square, crop or pad, mirror.

    Source: Ghiasi et al. 2021, "Simple Copy-Paste", section 3, arXiv 2012.07177.

    Args:
        image: RGB.
        boxes: (G, 4) in pixels of the file.
        labels: (G,).
        size: S.
        jitter: least and largest scale.
        rng: of this access.
        outlines: of the G objects, in pixels of the file; empty: without masks.

    Returns:
        The image; boxes cut away are left out.
    """
    factor = float(rng.uniform(*jitter)) * size / max(image.size)
    pixels = _resized(image, factor)
    h, w = pixels.shape[-2:]
    top, left = (int(rng.integers(max(0, v - size) + 1)) for v in (h, w))
    pixels = _padded(pixels[:, top : top + size, left : left + size], size)
    moved = (boxes * factor - torch.tensor([left, top, left, top]).float()).clamp(0, size)
    outlines = [[points * factor - [left, top] for points in polygons] for polygons in outlines]
    if rng.random() < 0.5:
        pixels = pixels.flip(-1)
        moved = torch.stack([size - moved[:, 2], moved[:, 1], size - moved[:, 0], moved[:, 3]], 1)
        outlines = [[points * [-1, 1] + [size, 0] for points in p] for p in outlines]
    kept = ((moved[:, 2:] - moved[:, :2]) >= 1).all(1)
    masks = torch.zeros(0, STORED, STORED, dtype=torch.bool)
    rows = kept.nonzero()[:, 0].tolist() if outlines else []
    if rows:
        masks = torch.stack([draw_mask(outlines[i], moved[i].tolist()) for i in rows])
    return Jittered(pixels, moved[kept], labels[kept], masks)


def _resized(image: Image.Image, factor: float) -> Tensor:
    w, h = (max(1, round(v * factor)) for v in image.size)
    small = image.resize((w, h), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    normed: Tensor = F.normalize(pixels, list(im.CLIP_MEAN), list(im.CLIP_STD))
    return normed


def _padded(pixels: Tensor, size: int) -> Tensor:
    out = pixels.new_zeros(3, size, size)  # zero is the mean colour
    h, w = (min(size, v) for v in pixels.shape[-2:])
    out[:, :h, :w] = pixels[:, :h, :w]
    return out
