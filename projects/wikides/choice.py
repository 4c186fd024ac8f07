"""Blind choice of the best among several texts: the form, its key, and shares of the votes."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng
from common.data.tables import read_csv, read_jsonl, write_jsonl
from common.evaluation.generation.preference import fleiss_kappa
from common.files import replacing

_STREAM = 71
TIE = "tie"
_LETTERS = "ABCDEFGH"


def write_choice_form(
    form: Path, key: Path, sources: Sequence[str], systems: Mapping[str, Sequence[str]], seed: int
) -> int:
    """Write a CSV for the raters, without names of systems, and alongside it the key.

    The form has ``item, source, A, B, ..., choice``; equal texts stand under one letter.

    Args:
        form: the CSV file.
        key: JSON lines, ``item`` and the systems behind each letter; not for the raters.
        sources: N texts that were described.
        systems: name -> N texts, two to eight systems.
        seed: of the order of each row.

    Returns:
        Number of rows; rows with a single distinct text are left out.

    Raises:
        UserError: another number of systems or texts.
    """
    if not 2 <= len(systems) <= len(_LETTERS) or any(
        len(texts) != len(sources) for texts in systems.values()
    ):
        raise UserError("a form of choices needs two to eight systems with a text for each source")
    rows, keys = [], []
    for i, source in enumerate(sources):
        behind = defaultdict[str, list[str]](list)
        for name, texts in systems.items():
            behind[texts[i].strip()].append(name)
        if len(behind) < 2:
            continue
        texts = sorted(behind)
        order = sample_rng(seed, 0, i, _STREAM).permutation(len(texts))
        shown = [texts[j] for j in order]
        rows.append([i, source, *shown, *[""] * (len(systems) - len(shown)), ""])
        letters = dict(zip(_LETTERS, (behind[text] for text in shown), strict=False))
        keys.append({"item": i, "systems": letters})
    write_jsonl(key, keys)  # before the form: without a key the raters' work would be lost
    with replacing(form) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "source", *_LETTERS[: len(systems)], "choice"])
        writer.writerows(rows)
    return len(rows)


def choice_shares(forms: Sequence[Path], key: Path) -> dict[str, float]:
    """Percent of the votes that each system got, of filled-in forms, one a rater.

    A letter that stands for several systems, or several letters ("A, B"), is shared equally between
    them; "tie" or an empty cell is a vote for none.

    Args:
        forms: CSV files as written by `write_choice_form`, with the column ``choice`` filled in.
        key: written with them.

    Returns:
        ``<system>_percent``, ``tie_percent``, ``votes``, and ``fleiss_kappa`` over the letters.

    Raises:
        UserError: no form, missing files or columns, an unknown item or letter.
    """
    if not forms:
        raise UserError("give the filled-in forms")
    letters = {int(row["item"]): row["systems"] for row in read_jsonl(key, ("item", "systems"))}
    names = sorted(
        {name for by_kind in letters.values() for part in by_kind.values() for name in part}
    )
    votes, marks = defaultdict[str, float](float), defaultdict[int, Counter[str]](Counter)
    total = 0
    for form in forms:
        for number, row in enumerate(read_csv(form, ("item", "choice")), start=2):
            item = int(row["item"]) if row["item"].isdigit() else -1
            chosen = [c for c in row["choice"].upper().replace(",", " ").split() if c != "TIE"]
            systems_of = letters.get(item, {})
            if item not in letters or not set(chosen) <= systems_of.keys():
                raise UserError(
                    f"{form}, row {number}: item {row['item']} with choice {row['choice']!r} is not"
                    f" in {key}; write a letter of the form, several, or 'tie'"
                )
            total += 1
            marks[item][",".join(sorted(chosen)) or TIE] += 1
            systems = [(name, len(systems_of[c])) for c in chosen for name in systems_of[c]]
            for name, sharing in systems:
                votes[name] += 1 / (len(chosen) * sharing)
            if not chosen:
                votes[TIE] += 1
    shares = {f"{name}_percent": 100 * votes[name] / max(1, total) for name in (*names, TIE)}
    kinds = sorted({mark for by_kind in marks.values() for mark in by_kind})
    table = [[by_kind[kind] for kind in kinds] for by_kind in marks.values()]
    kappa = fleiss_kappa(table) if table else float(np.nan)
    return {**shares, "votes": float(total), "fleiss_kappa": kappa}
