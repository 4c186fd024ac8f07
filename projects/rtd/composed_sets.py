"""Composed image retrieval in the official layouts: FashionIQ, CIRR, CIRCO, GeneCIS.

A query is a reference picture with a sentence that says what to change; see `ComposedQuery`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from common.config import UserError
from common.data.decode import decode_image
from common.data.lookup import require

FASHION_CATEGORIES = ("dress", "shirt", "toptee")
GENECIS_TASKS = ("focus_attribute", "change_attribute", "focus_object", "change_object")
DILATION = 0.7  # GeneCIS: share by which a box of an attribute is made larger


@dataclass(frozen=True)
class ComposedQuery:
    """One query; pictures are named as in `ComposedSet.gallery`.

    Attributes:
        id: of the set, as its server wants it.
        reference: name of the picture.
        texts: what to change; of several wordings the normalised embeddings are averaged.
        targets: right answers, the main one first; empty where they are not public.
        subset: names among which a second recall is taken (CIRR's group without the reference,
            GeneCIS's gallery).
    """

    id: str
    reference: str
    texts: tuple[str, ...]
    targets: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComposedSet:
    """Queries and the pictures that are searched.

    Attributes:
        name: such as ``fashioniq_dress``.
        queries: in the order of the file.
        gallery: names that are searched.
        open: name -> PIL image, of the gallery and of references.
        exclude_reference: whether the reference is taken out of the ranking.
    """

    name: str
    queries: list[ComposedQuery]
    gallery: list[str]
    open: Callable[[str], Image.Image] = field(repr=False)
    exclude_reference: bool = False


def fashion_iq(root: Path, category: str, split: str = "val") -> ComposedSet:
    """One category of FashionIQ; both captions joined by "and", in both orders.

    Source: Wu et al. 2021, arXiv 1905.12794; protocol of Baldrati et al. 2023, arXiv 2303.15247.

    Args:
        root: holds ``captions/``, ``image_splits/`` and ``images/``.
        category: dress, shirt or toptee.
        split: train, val or test (whose targets are not public).

    Raises:
        UserError: another category, or a missing file.
    """
    if category not in FASHION_CATEGORIES:
        raise UserError(f"FashionIQ has {', '.join(FASHION_CATEGORIES)}, not '{category}'")
    rows = _read(_fashion_file(root, f"captions/cap.{category}.{split}.json"))
    gallery = _read(_fashion_file(root, f"image_splits/split.{category}.{split}.json"))
    queries = []
    for i, row in enumerate(rows):
        first, second = (str(text).strip(".?, ") for text in row["captions"])
        texts = (f"{first} and {second}", f"{second} and {first}")
        target = (row["target"],) if "target" in row else ()
        queries.append(ComposedQuery(str(i), row["candidate"], texts, target))

    def opened(name: str) -> Image.Image:
        files = [root / "images" / f"{name}{suffix}" for suffix in (".png", ".jpg")]
        return open_rgb(next((f for f in files if f.is_file()), files[0]))

    return ComposedSet(f"fashioniq_{category}", queries, gallery, opened)


def cirr(root: Path, split: str = "val") -> ComposedSet:
    """CIRR; the reference is not an answer.

    Source: Liu et al. 2021, arXiv 2108.04024.

    Args:
        root: holds ``captions/`` and ``image_splits/`` (or ``cirr/`` with both) and the folders of
            pictures that the split file names.
        split: train, val or test1 (whose targets are not public).
    """
    annotations = root / "cirr" if (root / "cirr" / "captions").is_dir() else root
    rows = _read(_cirr_file(annotations / f"captions/cap.rc2.{split}.json"))
    places: Mapping[str, str] = _read(
        _cirr_file(annotations / f"image_splits/split.rc2.{split}.json")
    )
    queries = []
    for row in rows:
        reference = row["reference"]
        group = tuple(name for name in row["img_set"]["members"] if name != reference)
        targets = (row["target_hard"],) if "target_hard" in row else ()
        queries.append(
            ComposedQuery(str(row["pairid"]), reference, (row["caption"],), targets, group)
        )
    return ComposedSet(
        "cirr", queries, list(places), lambda name: open_rgb(root / places[name]), True
    )


def circo(root: Path, split: str = "val") -> ComposedSet:
    """CIRCO: several right answers among the unlabelled pictures of COCO 2017.

    Source: Baldrati et al. 2023, arXiv 2303.15247.

    Args:
        root: holds ``annotations/<split>.json`` and ``COCO2017_unlabeled/`` with ``unlabeled2017/``
            and ``annotations/image_info_unlabeled2017.json``.
        split: val or test (whose targets are not public).
    """
    source = "https://github.com/miccunifi/CIRCO"
    needed = {
        "what": "CIRCO",
        "layout": "annotations/<split>.json",
        "source": source,
        "size": "20 GB",
    }
    rows = _read(require(root / f"annotations/{split}.json", **needed))
    coco = root / "COCO2017_unlabeled"
    info = _read(require(coco / "annotations/image_info_unlabeled2017.json", **needed))
    files = {str(image["id"]): image["file_name"] for image in info["images"]}
    queries = []
    for row in rows:
        targets: tuple[str, ...] = ()
        if "target_img_id" in row:
            main = str(row["target_img_id"])
            others = (str(i) for i in row.get("gt_img_ids", []) if str(i) != main)
            targets = (main, *others)
        queries.append(
            ComposedQuery(
                str(row["id"]), str(row["reference_img_id"]), (row["relative_caption"],), targets
            )
        )
    return ComposedSet(
        "circo", queries, list(files), lambda name: open_rgb(coco / "unlabeled2017" / files[name])
    )


def genecis(root: Path, task: str) -> ComposedSet:
    """One task of GeneCIS: each query has a small gallery of its own.

    Source: Vaze et al. 2023, arXiv 2306.07969.

    Args:
        root: holds ``genecis/<task>.json``, and ``VG_100K_all/`` (attributes) or ``val2017/``
            (objects).
        task: focus_attribute, change_attribute, focus_object or change_object.

    Raises:
        UserError: another task, or a missing file.
    """
    if task not in GENECIS_TASKS:
        raise UserError(f"GeneCIS has {', '.join(GENECIS_TASKS)}, not '{task}'")
    path = require(
        root / f"genecis/{task}.json",
        what="GeneCIS",
        layout="genecis/<task>.json, VG_100K_all/<id>.jpg, val2017/<12 digits>.jpg",
        source="https://github.com/facebookresearch/genecis",
        size="20 GB",
    )
    pictures: dict[str, Mapping[str, Any]] = {}

    def named(row: Mapping[str, Any]) -> str:
        box = row.get("instance_bbox")
        name = str(row.get("val_image_id", row.get("image_id")))
        name = name if box is None or "val_image_id" in row else f"{name} {box}"
        pictures[name] = row
        return name

    queries = []
    for i, row in enumerate(_read(path)):
        reference, target = named(row["reference"]), named(row["target"])
        subset = (target, *(named(other) for other in row["gallery"]))
        queries.append(ComposedQuery(str(i), reference, (row["condition"],), (target,), subset))
    gallery = sorted({name for query in queries for name in query.subset})
    return ComposedSet(
        f"genecis_{task}", queries, gallery, lambda name: _genecis_picture(root, pictures[name])
    )


def open_rgb(path: Path) -> Image.Image:
    """A picture file as RGB.

    Raises:
        UserError: it is missing or no picture.
    """
    try:
        return decode_image(path).convert("RGB")
    except ValueError as error:
        raise UserError(f"cannot read {path} as an image: {error}") from error


def dilated_crop(
    image: Image.Image, box: Sequence[float], dilation: float = DILATION
) -> Image.Image:
    """The box (left, top, width, height) made larger on all sides, on a black square.

    As GeneCIS cuts it: the right and lower borders count from the enlarged left and upper ones.
    """
    x, y, width, height = box
    left, top = max(0, x - dilation * width), max(0, y - dilation * height)
    right = min(image.width, left + (1 + dilation) * width)
    bottom = min(image.height, top + (1 + dilation) * height)
    part = image.crop((left, top, right, bottom))
    side = max(part.size)
    square = Image.new("RGB", (side, side))
    square.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return square


def _genecis_picture(root: Path, row: Mapping[str, Any]) -> Image.Image:
    if "val_image_id" in row:
        return open_rgb(root / "val2017" / f"{int(row['val_image_id']):012d}.jpg")
    image = open_rgb(root / "VG_100K_all" / f"{row['image_id']}.jpg")
    return dilated_crop(image, row["instance_bbox"])


def _fashion_file(root: Path, name: str) -> Path:
    return require(
        root / name,
        what="FashionIQ",
        layout=(
            "captions/cap.<category>.<split>.json, image_splits/split.<category>.<split>.json, "
            "images/<name>.png"
        ),
        source="https://github.com/XiaoxiaoGuo/fashion-iq",
        size="8 GB",
    )


def _cirr_file(path: Path) -> Path:
    return require(
        path,
        what="CIRR",
        layout=(
            "captions/cap.rc2.<split>.json, image_splits/split.rc2.<split>.json, pictures of NLVR2"
        ),
        source="https://github.com/Cuberick-Orion/CIRR",
        size="6 GB",
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
