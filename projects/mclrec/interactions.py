"""Who took which items in which order: readers of logs, filters, ids."""

import gzip
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.damage import reading
from common.data.tables import read_csv, read_jsonl, text_of
from common.files import write_text

PAD = 0  # id of no item
Ids = NDArray[np.int64]
History = tuple[str, list[str]]  # user, items in the order in which they were taken
FORMATS = (
    ".inter (RecBole), .txt (user item item ...), .jsonl[.gz] (user, items) or .csv (user, item,"
    " timestamp)"
)


@dataclass(frozen=True)
class InteractionLog:
    """Users, items and what each user took, oldest first.

    Attributes:
        users: their names.
        items: their names; item i of the list has id i + 1, id 0 is padding.
        sequences: for every user ids in [1, len(items)].
    """

    users: list[str]
    items: list[str]
    sequences: list[Ids]

    @property
    def num_actions(self) -> int:
        """Interactions of all users."""
        return sum(len(sequence) for sequence in self.sequences)


def read_log(path: str | Path) -> list[History]:
    """Histories of a file by its suffix (`FORMATS` lists them), users in the order of the file.

    Rows of ``.inter`` and ``.csv`` are sorted by their timestamps where they have any (equal ones
    stay in the order of the file), else the file has to be in temporal order for each user.

    Raises:
        UserError: missing or damaged file, unknown format, missing columns, timestamps that are no
            numbers, or a user on several lines of ``.txt`` or ``.jsonl``.
    """
    path = Path(path).expanduser()
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        rows = read_jsonl(path, ("user", "items"))
        for number, row in enumerate(rows, start=1):
            if not isinstance(row["items"], list):
                raise UserError(f"{path}, row {number}: 'items' must be a list")
        with reading(path, "log of users and their items"):
            histories = [(text_of(row["user"]), list(map(text_of, row["items"]))) for row in rows]
        return _one_line_each(histories, path)
    if name.endswith(".txt"):
        return _one_line_each(_lines_of_items(path), path)
    if name.endswith(".inter"):
        return _interactions(path, "\t", "user_id:token", "item_id:token", "timestamp:float")
    if name.endswith(".csv"):
        return _interactions(path, ",", "user", "item", "timestamp")
    raise UserError(f"{path}: give {FORMATS}")


def make_log(histories: Iterable[History]) -> InteractionLog:
    """Give items their ids, in the order of their first appearance."""
    filtered = list(histories)
    ids: dict[str, int] = {}
    for _, items in filtered:
        for item in items:
            ids.setdefault(item, len(ids) + 1)
    sequences = [np.array([ids[item] for item in items], dtype=np.int64) for _, items in filtered]
    return InteractionLog([user for user, _ in filtered], list(ids), sequences)


def k_core(histories: Sequence[History], users: int = 5, items: int = 5) -> list[History]:
    """Drop rare items and short histories until every one has enough interactions."""
    while True:
        kept = frequent(histories, users, items)
        if sum(len(items_of_user) for _, items_of_user in kept) == sum(
            len(items_of_user) for _, items_of_user in histories
        ):
            return kept
        histories = kept


def frequent(histories: Sequence[History], users: int, items: int) -> list[History]:
    """One pass of `k_core`: rare items first, then short histories."""
    counts = Counter(item for _, history in histories for item in history)
    kept = [
        (user, [item for item in history if counts[item] >= items]) for user, history in histories
    ]
    return [(user, history) for user, history in kept if len(history) >= users]


def write_inter(histories: Iterable[History], path: str | Path) -> Path:
    """Write RecBole's ``.inter``: one interaction per line, in the order of each user."""
    path = Path(path)
    lines = (f"{user}\t{item}\n" for user, items in histories for item in items)
    write_text(path, "user_id:token\titem_id:token\n" + "".join(lines))
    return path


def _lines_of_items(path: Path) -> list[History]:
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    opener = gzip.open if path.name.endswith(".gz") else open
    with reading(path, "log in UTF-8"), opener(path, "rt", encoding="utf-8-sig") as file:
        words = [line.split() for line in file]
    return [(user, items) for user, *items in (row for row in words if row)]


def _one_line_each(histories: list[History], path: Path) -> list[History]:
    counts = Counter(user for user, _ in histories)
    twice = [user for user, lines in counts.items() if lines > 1]
    if twice:
        raise UserError(
            f"{path}: users with several lines: {len(twice)}, such as {twice[0]}; each line would"
            " be a user of its own: write all items of a user in one line, oldest first"
        )
    return histories


def _interactions(path: Path, delimiter: str, user: str, item: str, time: str) -> list[History]:
    rows = read_csv(path, (user, item), delimiter=delimiter)
    users = dict.fromkeys(row[user] for row in rows)  # in the order of the file
    if rows and time in rows[0]:
        try:
            if any(math.isnan(float(row[time])) for row in rows):  # which has no place in an order
                raise ValueError("one is NaN")
            rows.sort(key=lambda row: float(row[time]))  # stable
        except ValueError as error:
            raise UserError(f"{path}: column '{time}' must contain numbers ({error})") from error
    items: dict[str, list[str]] = {name: [] for name in users}
    for row in rows:
        items[row[user]].append(row[item])
    return list(items.items())
