"""GLUE's tab-separated files: where they lie, their lines, and what a label is worth."""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import UserError, nearest
from common.damage import reading, remedy
from common.data.lookup import data_root, require

_GLUE = "https://gluebenchmark.com/tasks (SNLI: https://nlp.stanford.edu/projects/snli)"


OTHER_NAMES = {"AX/AX.tsv": "diagnostic/diagnostic.tsv"}  # of GLUE's download script


def glue_file(root: str | None, name: str) -> Path:
    """Path of an official file, below the data root or ``glue_data`` in it.

    Raises:
        UserError: it is in neither place.
    """
    base = data_root(root)
    names = [name, *([OTHER_NAMES[name]] if name in OTHER_NAMES else [])]
    places = [folder / n for n in names for folder in (base, base / "glue_data")]
    return require(
        next((path for path in places if path.is_file()), base / "glue_data" / name),
        what=f"GLUE's {name}",
        layout="glue_data/{MNLI,SNLI,QQP,QNLI,MRPC,STS-B,RTE,WNLI}/*.tsv with a header line",
        source=_GLUE,
        size="about 1 GB in all",
    )


def plain_table(
    path: Path, columns: Sequence[str]
) -> tuple[list[str], list[int], list[tuple[int, list[str]]]]:
    """A table without quoting, as GLUE's are: a quotation mark is a character of the text.

    Lines end at line feeds only, blank ones are none; there may be a byte order mark. A name in
    ``.gz`` is unpacked.

    Args:
        path: the file.
        columns: names in the header; numbers where a file has none.

    Returns:
        Header ([] without one), places of the columns, and of every further line its number, from
        1, and its cells, however many it has.

    Raises:
        UserError: an empty file, one that is not UTF-8 or damaged, or a column that is not there.
    """
    zipped = path.name.endswith(".gz")
    opener: Any = gzip.open if zipped else open
    with (
        reading(path, f"{'gzipped ' if zipped else ''}table in UTF-8"),
        opener(path, "rt", encoding="utf-8-sig", newline="") as file,
    ):
        lines = file.read().split("\n")
    rows = [
        (number, line.rstrip("\r").split("\t"))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise UserError(f"{path} is empty: {remedy(path)}")
    if columns[0].isdigit():
        return [], [int(column) for column in columns], rows
    (_, header), *rows = rows
    for name in columns:
        if name not in header:
            raise UserError(f"{path}: no column '{name}'{nearest(name, header)}")
    return header, [header.index(name) for name in columns], rows


def cells_at(cells: Sequence[str], places: Sequence[int]) -> list[str]:
    """The cells of a row at these places, empty where the row is too short.

    >>> cells_at(["a", "b"], [1, 2])
    ['b', '']
    """
    return [cells[place] if place < len(cells) else "" for place in places]


def label_value(labels: Sequence[str], label: str, where: str) -> float:
    """Index of a label among the classes, or its score.

    Args:
        labels: classes in the order of the logits; none of a regression.
        label: as it was read.
        where: it stands, for messages.

    Raises:
        UserError: another label, or no finite number.

    >>> label_value(["no", "yes"], "yes", ""), label_value([], "4.5", "")
    (1, 4.5)
    """
    if labels:
        if label not in labels:
            raise UserError(f"{where}: label '{label}'{nearest(label, labels)}")
        return labels.index(label)
    try:
        score = float(label)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{where}: '{label}' is not a score")
    return score
