"""A user's own pairs of picture and caption, for statistics of the gap (such as CC3M's)."""

import csv
from pathlib import Path

from common.config import UserError
from common.damage import reading
from projects.close.batches import Example

MOST = 100_000  # pairs, as many as the paper took of CC3M


def own_pairs(path: Path, most: int | None = MOST) -> list[Example]:
    """Rows ``path,caption`` of a CSV without header.

    Args:
        path: the CSV; its picture paths are relative to its folder.
        most: rows that are taken, evenly over the file; None: all.

    Raises:
        UserError: no such file, no row, or a row that has not two cells.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: give data.text_file a CSV of path,caption")
    examples = []
    with (
        reading(path, "CSV of path,caption"),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        reader = csv.reader(file)
        for row in reader:
            if not row:
                continue
            if len(row) != 2:
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, not path,caption; put"
                    ' captions that hold commas between "quotes"'
                )
            examples.append(Example((row[1],), str(path.parent / row[0]), ()))
    if not examples:
        raise UserError(f"{path} has no pair: write path,caption a line")
    return examples if most is None else examples[:: -(-len(examples) // most)]
