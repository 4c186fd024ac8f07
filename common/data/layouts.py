"""What a file or folder of a user holds, found by its names, columns and keys."""

import csv
import gzip
import itertools
import json
import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from common.config import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg")
COCO_KEYS = {"images", "annotations", "categories"}
MOST_NAMES = 2_000  # of a folder that are looked at


class Layout(Enum):
    """Kinds of judged data; the value is what messages call one."""

    JUDGED = "judged queries (a folder in the BEIR layout)"
    PAIRS = "scored pairs of texts"
    LABELLED_PAIRS = "labelled pairs of texts"
    LABELLED = "labelled texts"
    CLASSES = "images in class folders"
    CAPTIONS = "a CSV of images and captions"
    MULTILINGUAL = "images with captions in several languages"
    BOXES = "annotated images in the format of COCO"
    COMPOSED = "composed queries (reference, text, target)"
    LOG = "a log of users and items"
    RECORDINGS = "a manifest of recordings"
    CLIPS = "clips with questions"
    DRIVES = "LiDAR drives in the layout of KITTI raw"
    SCANS = "LiDAR sequences (.npz)"
    ADVERTS = "adverts (title, skills, normalized_title)"
    DESCRIPTIONS = "descriptions with candidates (source, target, candidate)"
    QUESTIONS = "questions with right and wrong answers"
    CODE = "functions with docstrings"
    DIALOGUES = "dialogues"
    TEXTS = "texts"


# columns or keys that a layout has, in lower case; the first that fits counts
COLUMNS: tuple[tuple[Layout, frozenset[str]], ...] = tuple(
    (layout, frozenset(names.split()))
    for layout, names in (
        (Layout.LOG, "user item"),
        (Layout.LOG, "user items"),
        (Layout.LOG, "user_id:token item_id:token"),
        (Layout.COMPOSED, "reference text target"),
        (Layout.MULTILINGUAL, "image_path caption"),
        (Layout.RECORDINGS, "audio"),
        (Layout.CLIPS, "clip question answers"),
        (Layout.ADVERTS, "title skills"),
        (Layout.DESCRIPTIONS, "source target candidate"),
        (Layout.QUESTIONS, "question best_answer correct incorrect"),
        (Layout.CODE, "code docstring"),
        (Layout.CODE, "code_tokens docstring_tokens"),
        (Layout.DIALOGUES, "turns"),
        (Layout.PAIRS, "sentence1 sentence2 score"),
        (Layout.LABELLED_PAIRS, "first second label"),
        (Layout.LABELLED, "text label"),
        (Layout.TEXTS, "text"),
    )
)


def layout_of(path: Path) -> Layout:
    """The layout of a file or folder.

    Args:
        path: existing.

    Raises:
        UserError: it is none of `Layout`; the message says what was looked for.
    """
    layout = _of_folder(path) if path.is_dir() else _of_file(path)
    if layout is None:
        raise UserError(
            f"{path} is none of: {', '.join(layout.value for layout in Layout)}; docs/your-data.md"
            " shows the files of each"
        )
    return layout


def _of_folder(folder: Path) -> Layout | None:
    names = {path.name.removesuffix(".gz") for path in folder.iterdir()}
    if "corpus.jsonl" in names:
        return Layout.JUDGED
    if any(folder.glob("*/*_sync")):
        return Layout.DRIVES
    for name in itertools.islice(_below(folder), MOST_NAMES):
        ending = Path(name).suffix.lower()
        if ending in IMAGES:
            return Layout.CLASSES if os.sep in name else None
        if ending == ".npz":
            return Layout.SCANS
    return None


def _below(folder: Path) -> Iterator[str]:
    """Relative names of the files of a folder, without hidden ones."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(place, name), folder)


def _of_file(path: Path) -> Layout | None:
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending == ".txt":
        return Layout.TEXTS
    if ending in (".csv", ".tsv", ".inter"):
        return _of_table(path, "\t" if ending != ".csv" else ",")
    if ending == ".jsonl":
        return _of_names(_first_object(path))
    if ending == ".json":
        return Layout.BOXES if _keys(path) >= COCO_KEYS else None
    return None


def _of_names(names: list[str]) -> Layout | None:
    present = {name.lower() for name in names}
    return next((layout for layout, columns in COLUMNS if columns <= present), None)


def _of_table(path: Path, delimiter: str) -> Layout | None:
    """By the header, or without known names by the cells of the first rows."""
    lines = _first_lines(path, 3)
    plain = delimiter == "\t"  # between tabs a quotation mark is a character of the text
    cells = csv.reader(
        lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    )
    rows = [row for row in cells if row]
    if not rows:
        return None
    if (layout := _of_names(rows[0])) is not None:
        return layout
    header = {name.lower() for name in rows[0]}
    if {"question", "best answer"} <= header:
        return Layout.QUESTIONS
    if len(rows[0]) >= 2 and any(row[0].lower().endswith(IMAGES) for row in rows):
        return Layout.CAPTIONS
    if len(rows[0]) == 3 and len(rows) > 1:
        return Layout.PAIRS if _is_number(rows[1][-1]) else Layout.LABELLED_PAIRS
    return Layout.LABELLED if len(rows[0]) == 2 and len(rows) > 1 else None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell.strip()  # a score may be missing
    return True


def _first_object(path: Path) -> list[str]:
    """Keys of the first line."""
    for line in _first_lines(path, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line 1: not valid JSON ({error})") from error
        if isinstance(row, dict):
            return list(row)
    return []


def _keys(path: Path) -> set[str]:
    """Keys of the object that a JSON file is."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    return set(content) if isinstance(content, dict) else set()


def _first_lines(path: Path, count: int) -> list[str]:
    """The first lines that are not empty."""
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            return list(itertools.islice((line for line in file if line.strip()), count))
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
