"""Cross-lingual retrieval benchmarks in their official layouts: Multi30K, COCO, xFlickr&CO, WIT."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.config import UserError
from common.data.lookup import require
from common.data.tables import read_jsonl

Benchmark = Literal["multi30k", "coco", "xflickrco", "wit"]
SOURCES = {
    "multi30k": "https://github.com/multi30k/dataset and https://shannon.cs.illinois.edu/DenotationGraph",
    "coco": "https://cocodataset.org, STAIR-captions, COCO-CN and Karpathy's dataset_coco.json",
    "xflickrco": "https://github.com/e-bug/iglue",
    "wit": "https://github.com/e-bug/iglue",
}


@dataclass(frozen=True)
class LanguageSet:
    """Images and texts of one language.

    Attributes:
        images: paths below the folder of the images.
        texts: captions, several an image where the set has them.
        image_of_text: (T,) position in `images`.
    """

    images: tuple[str, ...]
    texts: tuple[str, ...]
    image_of_text: tuple[int, ...]

    def texts_of_image(self) -> list[list[int]]:
        """Positions in `texts` of every image."""
        found: list[list[int]] = [[] for _ in self.images]
        for text, image in enumerate(self.image_of_text):
            found[image].append(text)
        return found


def aligned(sets: Mapping[str, LanguageSet]) -> bool:
    """Whether text i is a translation of text i in every language: the rank variance needs that."""
    first = next(iter(sets.values()))
    return all((s.images, s.image_of_text) == (first.images, first.image_of_text) for s in sets.values())  # fmt: skip


def grouped(pairs: Sequence[tuple[str, str]]) -> LanguageSet:
    """Set of (image, text) pairs; images in the order of their first text."""
    images = list(dict.fromkeys(image for image, _ in pairs))
    place = {image: i for i, image in enumerate(images)}
    texts = tuple(text for _, text in pairs)
    return LanguageSet(tuple(images), texts, tuple(place[image] for image, _ in pairs))


def read_benchmark(
    name: Benchmark, root: Path, languages: Sequence[str], split: str
) -> dict[str, LanguageSet]:
    """One set a language.

    Layouts below `root`:

    - multi30k: ``multi30k/task1/image_splits/<split>.txt`` with one file name a line, and
      ``multi30k/task1/raw/<split>.<language>[.gz]``; where ``multi30k/task2/raw/<split>.{1..5}.<language>``
      exist (English, German), these five captions an image are read.
    - coco: ``coco/<language>_<split>.json`` in COCO's caption format (images with file_name,
      annotations with image_id and caption) or in Karpathy's (images with split and sentences).
    - xflickrco: ``xflickrco/<language>/<split>.jsonl`` of IGLUE (img_path, sentences).
    - wit: ``wit/<language>_<split>.jsonl`` of IGLUE (img_path, caption_reference_description).

    Images whose captions are all empty are left out, as the release leaves them out.

    Args:
        name: benchmark.
        root: the data folder.
        languages: codes as the files have them.
        split: e.g. "test" (multi30k: "test_2016_flickr").

    Raises:
        UserError: a missing file, with the layout and the source, or one without captions.
    """
    read = {"multi30k": _multi30k, "coco": _coco, "xflickrco": _xflickrco, "wit": _wit}[name]
    found = {language: grouped(read(root, language, split)) for language in languages}
    for language, one in found.items():
        if not one.texts:
            raise UserError(f"{name} has no captions in '{language}' for split '{split}'")
    return found


def _multi30k(root: Path, language: str, split: str) -> list[tuple[str, str]]:
    folder = root / "multi30k"
    images = _lines(folder / "task1/image_splits" / f"{split}.txt", "multi30k")
    names = [image.split("#")[0] for image in images]
    five = [folder / "task2/raw" / f"{split}.{i}.{language}" for i in range(1, 6)]
    files = five if _present(five[0]) else [folder / "task1/raw" / f"{split}.{language}"]
    columns = [_lines(path, "multi30k") for path in files]
    if any(len(column) != len(names) for column in columns):
        raise UserError(f"{files[0]} has another number of lines than the {len(names)} images")
    return [(name, column[i]) for i, name in enumerate(names) for column in columns]


def _coco(root: Path, language: str, split: str) -> list[tuple[str, str]]:
    content = json.loads(_text(root / "coco" / f"{language}_{split}.json", "coco"))
    if "annotations" not in content:  # Karpathy's layout
        rows = [row for row in content["images"] if row["split"] == split]
        return [
            (str(Path(row.get("filepath", "")) / row["filename"]), sentence["raw"])
            for row in rows
            for sentence in row["sentences"]
        ]
    names = {row["id"]: row["file_name"] for row in content["images"]}
    pairs = [(names[row["image_id"]], row["caption"]) for row in content["annotations"]]
    return sorted(pairs, key=lambda pair: pair[0])  # captions of an image in their order


def _xflickrco(root: Path, language: str, split: str) -> list[tuple[str, str]]:
    rows = _rows(root / "xflickrco" / language / f"{split}.jsonl", "xflickrco", "sentences")
    return [
        (row["img_path"], text)
        for row in rows
        if any(row["sentences"])
        for text in row["sentences"]
    ]


def _wit(root: Path, language: str, split: str) -> list[tuple[str, str]]:
    column = "caption_reference_description"
    rows = _rows(root / "wit" / f"{language}_{split}.jsonl", "wit", column)
    return [(row["img_path"], row[column]) for row in rows if row[column]]


def _rows(path: Path, name: str, column: str) -> list[dict[str, Any]]:
    return list(read_jsonl(_there(path, name), ["img_path", column]))


def _present(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + ".gz").exists()


def _there(path: Path, name: str) -> Path:
    packed = path.with_name(path.name + ".gz")
    if packed.exists() and not path.exists():
        return packed
    return require(
        path, what=f"captions of {name}", layout=f"see read_benchmark, section {name}",
        source=SOURCES[name], size="20 MB, images extra",
    )  # fmt: skip


def _text(path: Path, name: str) -> str:
    path = _there(path, name)
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return raw.decode("utf-8")


def _lines(path: Path, name: str) -> list[str]:
    return _text(path, name).rstrip("\n").split("\n")
