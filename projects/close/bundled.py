"""Captions of bundled photographs and drawings in words unseen by the bundled dual encoder.

Captions are made from class words and names alone; no picture is opened for them. Details in the
captions of photographs (a property, a place) have nothing to do with the picture.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from common.data.image_text.captions import CaptionFiles
from common.data.lookup import bundled
from common.data.packed import PackedImages
from common.data.samplers import Rng, sample_rng
from common.data.tables import read_jsonl
from common.families.image_text.drawings import POOL
from common.families.image_text.photographs import CLASSES, DEV_PER_CLASS
from projects.close.batches import Example
from projects.close.config import CloseData

PER_CLASS = {"train": 1000, "test": 200}  # of the bundled files
PHOTO_STREAM, DRAWING_STREAM, SUBSET_STREAM = 41, 42, 43
PHOTO_FRAMES = (
    "a snapshot of the {detail} {noun}.",
    "my {detail} {noun}.",
    "this is the {detail} {noun}",
    "picture of a {detail} {noun}",
    "a {noun} at the {place}",
    "this {noun} is by the {place}",
    "a picture of the {noun} and the {place}",
    "here is a {noun} near the {place}",
)
DETAILS = (
    "small",
    "large",
    "lone",
    "distant",
    "quiet",
    "famous",
    "tired",
    "young",
    "grey",
    "lucky",
)
PLACES = (
    "harbour",
    "river",
    "station",
    "village",
    "fence",
    "bridge",
    "market",
    "hill",
    "tower",
    "school",
)
DRAWING_FRAMES = (
    "clip art of {}",
    "{} as an icon",
    "a picture of {}",
    "drawn: {}",
    "a badge with {}",
)
Part = Literal["train", "dev", "test", "pairs"]


def examples(data: CloseData, part: Part, seed: int) -> list[Example]:
    """Photographs, then drawings, of a part.

    Args:
        data: how many photographs are trained on.
        part: train; dev and test, whose photographs and drawings the dual encoder never saw; pairs,
            for the statistics of adapters: photographs that train leaves out and drawings of dev.
        seed: draws the training photographs and all captions.
    """
    photos = []
    for label, ranks in enumerate(photo_ranks(data, part, seed)):
        for rank in ranks:
            rng = sample_rng(seed, _place(part), label * 1000 + rank, PHOTO_STREAM)
            text, file = photo_caption(CLASSES[label], rng), "test" if part == "test" else "train"
            image = f"photo-{file}/{label}/{rank}"
            photos.append(Example((text,), image, (text,), label=CLASSES[label]))
    return photos + (drawing_examples(data.root, part, seed) if data.drawings else [])


def _place(part: Part) -> int:
    return ("train", "dev", "test", "pairs").index(part)


def photo_ranks(data: CloseData, part: Part, seed: int) -> list[list[int]]:
    """For each class the photographs of a part, by their place among those of the class."""
    if part == "test":
        return [list(range(PER_CLASS["test"])) for _ in CLASSES]
    rest = PER_CLASS["train"] - DEV_PER_CLASS
    if part == "dev":
        return [list(range(rest, PER_CLASS["train"])) for _ in CLASSES]
    count = min(rest, data.photos // len(CLASSES))
    rows = []
    for label in range(len(CLASSES)):
        order = sample_rng(seed, 0, label, SUBSET_STREAM).permutation(rest).tolist()
        rows.append(order[:count] if part == "train" else order[count:])
    return rows


def photo_caption(noun: str, rng: Rng) -> str:
    """A sentence about a class with details of no picture."""

    def one(words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    frame = one(PHOTO_FRAMES)
    return frame.format(noun=noun, detail=one(DETAILS), place=one(PLACES))


def drawing_examples(root: str | None, part: Part, seed: int) -> list[Example]:
    """Two phrasings of each training drawing's name; one of each held-out drawing's."""
    if part == "train":
        files = CaptionFiles(bundled(POOL, root) / "train.csv", root="")
        rows = [(str(files.path(i)), files.texts(i)[0]) for i in range(len(files))]
    else:
        split = "test" if part == "test" else "dev"
        table = read_jsonl(bundled(f"{POOL}/test.jsonl.gz", root), ["image", "split", "name"])
        rows = [(row["image"], row["name"]) for row in table if row["split"] == split]
    drawings = []
    for i, (image, name) in enumerate(rows):
        rng = sample_rng(seed, _place(part), i, DRAWING_STREAM)
        chosen = rng.permutation(len(DRAWING_FRAMES))[: 2 if part == "train" else 1]
        for frame in chosen:
            text = DRAWING_FRAMES[int(frame)].format(name.lower())
            drawings.append(Example((text,), image, (text,), label=name))
    return drawings


def is_photo(example: Example) -> bool:
    """Whether an example is a photograph, whose label is a class word."""
    return example.image.startswith("photo-")


class Pictures:
    """Bundled pictures by name: ``photo-<file>/<class>/<place>`` or ``<set>/<row>.jpg``."""

    def __init__(self, root: str | None) -> None:
        self.root = root
        self._sets: dict[str, PackedImages] = {}
        self._members: dict[str, list[np.ndarray]] = {}

    def __call__(self, name: str) -> Image.Image:
        """The picture."""
        folder, *rest = name.split("/")
        if not folder.startswith("photo-"):
            return self._open(f"{folder}/images.npz")[int(Path(name).stem)]
        file = f"cifar10/{folder.removeprefix('photo-')}.npz"
        packed = self._open(file)
        if file not in self._members:
            labels: Any = packed.array("labels")
            self._members[file] = [np.flatnonzero(labels == c) for c in range(len(CLASSES))]
        return packed[int(self._members[file][int(rest[0])][int(rest[1])])]

    def _open(self, file: str) -> PackedImages:
        if file not in self._sets:
            self._sets[file] = PackedImages(bundled(file, self.root))
        return self._sets[file]
