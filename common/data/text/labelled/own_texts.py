"""Labelled texts of a user: CSV, TSV or JSON lines with a text and a label in each row."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from common.config import UserError
from common.data.tables import read_csv, read_jsonl
from common.data.text.sets import joined

COLUMNS = ("text", "label")


@dataclass(frozen=True)
class OwnTexts:
    """Texts with classes.

    Attributes:
        texts: N texts.
        labels: N classes, places in `classes`.
        classes: names, sorted.
        num_skipped: rows without a text or a label.
        rare: classes with too few texts, which are left out, with their counts.
    """

    texts: list[str]
    labels: list[int]
    classes: list[str]
    num_skipped: int
    rare: dict[str, int]


def load_own_texts(path: Path, least: int) -> OwnTexts:
    """Texts with classes that are large enough.

    Args:
        path: see `read_own_texts`.
        least: texts of a class, at least; classes with fewer are left out.

    Raises:
        UserError: fewer than two classes are left; see `read_own_texts`.
    """
    used, num_skipped = read_own_texts(path)
    counts = Counter(label for _, label in used)
    classes = sorted(label for label, count in counts.items() if count >= least)
    if len(classes) < 2:
        raise UserError(
            f"{path} has {len(classes)} classes with {least} texts or more: a classification needs"
            " two"
        )
    kept = [(text, classes.index(label)) for text, label in used if label in classes]
    rare = {label: count for label, count in sorted(counts.items()) if count < least}
    texts, labels = [text for text, _ in kept], [label for _, label in kept]
    return OwnTexts(texts, labels, classes, num_skipped, rare)


def read_own_texts(path: Path) -> tuple[list[tuple[str, str]], int]:
    """Texts and labels: the columns ``text`` and ``label``, or the first two.

    Args:
        path: ``.csv`` or ``.tsv`` with a header, or ``.jsonl``, each also ``.gz``.

    Returns:
        (text, label) pairs, and the number of rows that lack one of them.

    Raises:
        UserError: the file is missing or broken, or has one column.
    """
    is_jsonl = path.name.removesuffix(".gz").endswith(".jsonl")
    rows = read_jsonl(path) if is_jsonl else read_csv(path)
    header = list(rows[0]) if rows else []
    names = COLUMNS if {*COLUMNS} <= {*header} else tuple(header[:2])
    if len(names) < 2:
        raise UserError(f"{path} has the columns {', '.join(header)}; expected text and label")
    cells = [(_cell(row.get(names[0])), _cell(row.get(names[1]))) for row in rows]
    used = [(text, label) for text, label in cells if text and label]
    return used, len(rows) - len(used)


def _cell(value: object) -> str:
    return "" if value is None else joined(str(value))
