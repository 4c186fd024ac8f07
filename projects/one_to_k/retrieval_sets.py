"""Cross-lingual retrieval benchmarks in their official layouts: Multi30K, COCO, xFlickr&CO, WIT."""

import gzip
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.config import UserError
from common.damage import reading
from common.data.lookup import require
from common.data.tables import read_jsonl

Benchmark = Literal["multi30k", "coco", "xflickrco", "wit"]
SOURCES = {
    "multi30k": (
        "https://github.com/multi30k/dataset and https://shannon.cs.illinois.edu/DenotationGraph"
    ),
    "coco": (
        "https://cocodataset.org, https://cs.stanford.edu/people/karpathy/deepimagesent (the splits"
        " and English), https://github.com/STAIR-Lab-CIT/STAIR-captions,"
        " https://github.com/li-xirong/coco-cn"
    ),
    "xflickrco": "https://github.com/e-bug/iglue",
    "wit": (
        "https://github.com/e-bug/iglue, pictures:"
        " https://www.kaggle.com/c/wikipedia-image-caption/data"
    ),
}
Pairs = list[tuple[str, str]]  # image and text
# Multi30K's task2 has five captions an image in these languages, under these names of the splits
FIVE_LANGUAGES = ("en", "de")
FIVE_SPLITS = {"train": "train", "val": "val", "test_2016_flickr": "test_2016"}
COCO_FILES = {"ja": "stair_captions_v1.2"}  # other languages: their code
COCO_IMAGE = re.compile(r"COCO_((?:train|val)2014)_\d{12}\.jpg")


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
        texts: list[list[int]] = [[] for _ in self.images]
        for text, image in enumerate(self.image_of_text):
            texts[image].append(text)
        return texts


def aligned(sets: Mapping[str, LanguageSet]) -> bool:
    """Whether text i is a translation of text i in every language: the rank variance needs that."""
    first = next(iter(sets.values()))
    return all(
        (s.images, s.image_of_text) == (first.images, first.image_of_text) for s in sets.values()
    )


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

    Layouts below `root`, file names those of the releases:

    - multi30k: ``multi30k/task1/image_splits/<split>.txt`` with one file name per line, and
      ``multi30k/task1/raw/<split>.<language>[.gz]``; in English and German the five captions an
      image of ``multi30k/task2/raw/<split>.{1..5}.<language>[.gz]`` where they are there
      ("test_2016_flickr" is "test_2016" there), else the one of task1, with a warning.
    - coco: ``coco/dataset_coco.json`` of Karpathy has the splits ("train" with "restval") and
      English; Chinese is ``coco/coco-cn_<split>.txt`` and
      ``coco/imageid.human-written-caption.txt`` of COCO-CN, which has a split of its own; Japanese
      is STAIR's ``coco/stair_captions_v1.2_{train,val}.json``, another language
      ``coco/<language>_{train,val}.json``: COCO's caption format, files for train2014 and for
      val2014, of which the images of Karpathy's split are read. A picture is
      ``{train,val}2014/<file name>`` in all of them.
    - xflickrco: ``xflickrco/<language>/<split>.jsonl`` of IGLUE (img_path, sentences).
    - wit: ``wit/<split>_<language>.jsonl`` of IGLUE (image_url, caption_reference_description). The
      picture of an address is what ``wit/images.jsonl`` says, a file of your own with a line
      ``{"image_url": "https://...", "img_path": "a/b.jpg"}`` each: IGLUE has no file names, and its
      image_idx is shared by several pictures.

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
    sets = {x: grouped(pairs) for x, pairs in read(root, languages, split).items()}
    for language, one in sets.items():
        if not one.texts:
            raise UserError(f"{name} has no captions in '{language}' for split '{split}'")
    return sets


def _multi30k(root: Path, languages: Sequence[str], split: str) -> dict[str, Pairs]:
    folder = root / "multi30k"
    lines = _lines(folder / "task1/image_splits" / f"{split}.txt", "multi30k")
    names = [line.split("#")[0] for line in lines]
    pairs_of = {}
    for language in languages:
        files = _multi30k_files(folder, language, split)
        columns = [_lines(path, "multi30k") for path in files]
        if any(len(column) != len(names) for column in columns):
            raise UserError(f"{files[0]} has another number of lines than the {len(names)} images")
        pairs_of[language] = [(x, column[i]) for i, x in enumerate(names) for column in columns]
    return pairs_of


def _multi30k_files(folder: Path, language: str, split: str) -> list[Path]:
    """Five of task2 or one of task1."""
    one = folder / "task1/raw" / f"{split}.{language}"
    if language not in FIVE_LANGUAGES or split not in FIVE_SPLITS:
        return [one]
    five = [folder / "task2/raw" / f"{FIVE_SPLITS[split]}.{i}.{language}" for i in range(1, 6)]
    if any(_present(path) for path in five):
        return five
    warnings.warn(
        f"multi30k '{language}', {split}: one caption an image, of {one}; for the five put task2 of"
        f" the release next to task1: {five[0]}.gz is not there",
        stacklevel=2,
    )
    return [one]


def _coco(root: Path, languages: Sequence[str], split: str) -> dict[str, Pairs]:
    folder = root / "coco"
    parts = ("train", "restval") if split == "train" else (split,)
    rows = []
    if set(languages) != {"zh"}:
        whole = _json(folder / "dataset_coco.json", "images")
        rows = [row for row in whole if row["split"] in parts]
    pairs_of = {}
    for language in languages:
        if language == "en":
            pairs_of["en"] = [
                (_coco_image(r["filename"]), s["raw"]) for r in rows for s in r["sentences"]
            ]
        elif language == "zh":
            pairs_of["zh"] = _coco_cn(folder, split)
        else:
            images = {row["cocoid"]: _coco_image(row["filename"]) for row in rows}
            pairs_of[language] = _coco_format(folder, language, split, images)
    return pairs_of


def _coco_image(file_name: str) -> str:
    """A picture's one path, whichever file names it.

    >>> _coco_image("COCO_val2014_000000000042.jpg")
    'val2014/COCO_val2014_000000000042.jpg'
    """
    if (match := COCO_IMAGE.fullmatch(file_name)) is None:
        raise UserError(f"'{file_name}' is not a file name of COCO's train2014 or val2014")
    return f"{match[1]}/{file_name}"


def _coco_format(folder: Path, language: str, split: str, images: Mapping[int, str]) -> Pairs:
    """Captions of the images of a split by their ids, in the order of the split."""
    texts: dict[int, list[str]] = {image: [] for image in images}
    for part in sorted({name.split("2014/")[0] for name in images.values()}):
        path = folder / f"{COCO_FILES.get(language, language)}_{part}.json"
        for row in _json(path, "annotations"):
            if row["image_id"] in texts:
                texts[row["image_id"]].append(row["caption"])
    if lost := sum(not captions for captions in texts.values()):
        warnings.warn(
            f"coco '{language}': {lost} of the {len(texts)} images of split '{split}' have no"
            " caption and are left out",
            stacklevel=2,
        )
    return [(images[image], text) for image, captions in texts.items() for text in captions]


def _coco_cn(folder: Path, split: str) -> Pairs:
    names = set(_lines(folder / f"coco-cn_{split}.txt", "coco"))
    pairs = []
    for line in _lines(folder / "imageid.human-written-caption.txt", "coco"):
        key, _, text = line.partition("\t")  # <name>#<number>, sentence
        if (image := key.split("#")[0]) in names:
            pairs.append((_coco_image(f"{image}.jpg"), text))
    return pairs


def _xflickrco(root: Path, languages: Sequence[str], split: str) -> dict[str, Pairs]:
    pairs_of = {}
    for language in languages:
        path = root / "xflickrco" / language / f"{split}.jsonl"
        rows = _rows(path, "xflickrco", ["img_path", "sentences"])
        pairs_of[language] = [
            (row["img_path"], text)
            for row in rows
            if any(row["sentences"])
            for text in row["sentences"]
        ]
    return pairs_of


def _wit(root: Path, languages: Sequence[str], split: str) -> dict[str, Pairs]:
    folder, column = root / "wit", "caption_reference_description"
    pairs_of = {}
    for language in languages:
        rows = _rows(folder / f"{split}_{language}.jsonl", "wit", ["image_url", column])
        pairs_of[language] = [(row["image_url"], row[column]) for row in rows if row[column]]
    files = _wit_images(folder / "images.jsonl")
    addresses = dict.fromkeys(address for pairs in pairs_of.values() for address, _ in pairs)
    if lost := [address for address in addresses if address not in files]:
        raise UserError(
            f"{folder / 'images.jsonl'} has no line for {len(lost)} of the {len(addresses)}"
            f" pictures of split '{split}', such as {lost[0]}: save them below {folder / 'images'}"
            " and add their lines"
        )
    return {x: [(files[address], text) for address, text in pairs] for x, pairs in pairs_of.items()}


def _wit_images(path: Path) -> dict[str, str]:
    """Path below the folder of the images by address; no two addresses share one."""
    layout = (
        'a line {"image_url": "https://...", "img_path": "a/b.jpg"} for each picture below'
        " wit/images; save there what image_pixels/*.csv of the Kaggle set hold (address, picture"
        " in base64, tab between) and write the lines"
    )
    files: dict[str, str] = {}
    owner: dict[str, str] = {}
    for row in _rows(path, "wit", ["image_url", "img_path"], "files of the pictures", layout):
        address, file = row["image_url"], row["img_path"]
        files[address] = file
        if owner.setdefault(file, address) != address:
            raise UserError(f"{path}: {owner[file]} and {address} have the same file {file}")
    return files


def _rows(
    path: Path, name: str, columns: Sequence[str], what: str = "captions", layout: str = ""
) -> list[dict[str, Any]]:
    return read_jsonl(_there(path, name, what, layout), columns)


def _present(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + ".gz").exists()


def _there(path: Path, name: str, what: str = "captions", layout: str = "") -> Path:
    packed = path.with_name(path.name + ".gz")
    if packed.exists() and not path.exists():
        return packed
    return require(
        path,
        what=f"{what} of {name}",
        layout=layout or f"see read_benchmark, section {name}",
        source=SOURCES[name],
        size="20 MB, images extra",
    )


def _json(path: Path, key: str) -> list[dict[str, Any]]:
    """A list of a JSON file of COCO."""
    with reading(path, "JSON file of COCO"):
        content = json.loads(_text(path, "coco"))
    if key not in content:
        raise UserError(f"{path} has no '{key}': expected the release's own file")
    rows: list[dict[str, Any]] = content[key]
    return rows


def _text(path: Path, name: str) -> str:
    path = _there(path, name)
    with reading(path, "text file in UTF-8"):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8-sig")


def _lines(path: Path, name: str) -> list[str]:
    lines = _text(path, name).rstrip("\r\n").split("\n")
    return [line.removesuffix("\r") for line in lines]
