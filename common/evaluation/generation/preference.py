"""Blind A/B comparison of texts by people: the form and its key; agreement of raters."""

import csv
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.offline import content_digest
from common.data.samplers import sample_rng
from common.data.tables import read_csv
from common.files import replacing

COLUMNS = ("InstanceNum", "Prefix", "First", "Second", "Choice", "Explanation")
FORM, KEY = "ab_form.csv", "ab_key.csv"
_ORDER_STREAM = 62


def write_form(
    path: Path, prefixes: Sequence[str], systems: Mapping[str, Sequence[str]], seed: int = 0
) -> int:
    """Write a CSV with two continuations of each prefix in random order, and the key alongside it.

    The form (``InstanceNum, Prefix, First, Second`` and empty ``Choice`` and ``Explanation``) names
    no system. ``ab_key.csv`` alongside it (``InstanceNum, Order``) does, and stays with the
    experimenter; it keeps the instances of earlier forms, which have other names (see `form_name`).

    Args:
        path: the form; see `place_form` for one that is there already.
        prefixes: N texts.
        systems: two names, each with N continuations.
        seed: of the order.

    Returns:
        Number of pairs; pairs of equal texts are left out.

    Raises:
        UserError: not two systems, or other numbers of texts.
    """
    if len(systems) != 2 or any(len(texts) != len(prefixes) for texts in systems.values()):
        raise UserError("an A/B form needs two systems with one continuation per prefix")
    names = list(systems)
    form = form_name([*names, str(seed), *prefixes, *(t for name in names for t in systems[name])])
    rows, orders = [], {}
    for i, prefix in enumerate(prefixes):
        order = shuffled(names, seed, i)
        first, second = (systems[name][i] for name in order)
        if first != second:
            rows.append([f"{form}-{i}", prefix, first, second, "", ""])
            orders[f"{form}-{i}"] = ",".join(order)
    place_form(path, COLUMNS, rows)
    key = path.with_name(KEY)
    stored = read_key(key) if key.is_file() else {}
    _write_csv(key, ("InstanceNum", "Order"), list((stored | orders).items()))
    return len(rows)


def form_name(texts: Iterable[str]) -> str:
    """Name of a form's rows, by its content, so that the key of another form does not fit."""
    return f"f{content_digest(texts)[:8]}"


def place_form(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a form, whose first column names its rows.

    The same form that is there already stays as it is, since it may have been filled in; another
    one is renamed (``ab_form-<name>.csv``).
    """
    old = [row.get(columns[0], "") for row in read_csv(path)] if path.is_file() else []
    if old and set(old) <= {row[0] for row in rows}:
        return
    if old:
        name = f"{path.stem}-{old[0].rpartition('-')[0] or 'old'}"
        names = (f"{name}{n or ''}{path.suffix}" for n in itertools.count())
        path.rename(next(p for p in map(path.with_name, names) if not p.exists()))
    _write_csv(path, columns, rows)


def shuffled(names: Sequence[str], seed: int, item: int) -> list[str]:
    """Order in which the systems of an item are shown."""
    return [names[j] for j in sample_rng(seed, 0, item, _ORDER_STREAM).permutation(len(names))]


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float:
    """Agreement beyond chance of several raters.

    Source: Fleiss 1971, "Measuring nominal scale agreement among many raters", doi
    10.1037/h0031619.

    Args:
        counts: (instances, categories) votes; only instances with the most frequent number of
            raters count.

    Returns:
        1 for perfect agreement, 0 for chance; NaN with fewer than two raters, or when all votes
        name one category.

    >>> fleiss_kappa([[3, 0], [0, 3]])
    1.0
    """
    raters = Counter(sum(row) for row in counts).most_common(1)[0][0]
    table = np.array([row for row in counts if sum(row) == raters], dtype=np.float64)
    if raters < 2:
        return float("nan")
    agree = ((table * (table - 1)).sum(1) / (raters * (raters - 1))).mean()
    chance = float(np.square(table.sum(0) / table.sum()).sum())
    return float((agree - chance) / (1 - chance)) if chance < 1 else float("nan")


def read_key(key: Path) -> dict[str, str]:
    """Order of the systems by instance, from the key alongside a form.

    Raises:
        UserError: no such file.
    """
    if not key.is_file():
        raise UserError(f"{key} is missing: it was written next to the form and names the systems")
    return {row["InstanceNum"]: row["Order"] for row in read_csv(key, ["InstanceNum", "Order"])}


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
