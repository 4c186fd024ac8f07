"""Answers of raters, and what they prefer."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.tables import read_csv
from common.evaluation.generation.preference import KEY, fleiss_kappa, read_key

CHOICE = re.compile(r"^\W*(?:text\s*)?(1|2|first|second)\b", re.I)


@dataclass(frozen=True)
class Answer:
    """What one rater said about one pair."""

    instance: str
    chosen: str  # name of the preferred system
    explanation: str
    rejected: str = ""  # name of the other one


def read_answers(path: Path, key: Path | None = None) -> list[Answer]:
    """Answers of raters, one row each.

    Either our form with ``InstanceNum``, ``Choice`` (1 or 2) and ``Explanation``, whose systems
    are in its key (or in a column ``Order``), or the crowd-sourcing export of the RankGen release
    (``HITId``, ``Input.Order``, ``Answer.utterance``), whose free text begins with the choice.

    Args:
        path: the answers.
        key: of the form; None: ``ab_key.csv`` alongside the answers.

    Raises:
        UserError: missing file, key or columns, an instance that the key lacks, or a row without a
            choice.
    """
    rows = read_csv(path)
    if not rows:
        raise UserError(f"{path} has no answers")
    names = ("HITId", "Input.Order", "Answer.utterance")
    if not set(names) <= rows[0].keys():
        names = ("InstanceNum", "Order", "Choice")
        if not {"InstanceNum", "Choice"} <= rows[0].keys():
            raise UserError(f"{path} needs the columns InstanceNum and Choice")
        if "Order" not in rows[0]:
            _add_orders(rows, path, key or path.with_name(KEY))
    answers = []
    for number, row in enumerate(rows, start=2):
        text = row[names[2]]
        choice = CHOICE.match(text)
        order = [name.strip() for name in row[names[1]].split(",")]
        if choice is None or len(order) != 2:
            raise UserError(f"{path}, row {number}: no choice between two texts in {text[:60]!r}")
        first = choice[1].lower() in ("1", "first")
        chosen, rejected = order if first else order[::-1]
        answers.append(Answer(row[names[0]], chosen, row.get("Explanation") or text, rejected))
    return answers


def majority(answers: Sequence[Answer]) -> dict[str, str | None]:
    """Instance -> system that most raters chose; None for a tie."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for answer in answers:
        votes[answer.instance][answer.chosen] += 1
    winners: dict[str, str | None] = {}
    for instance, count in votes.items():
        (name, most), *others = count.most_common()
        winners[instance] = None if others and others[0][1] == most else name
    return winners


def preference_metrics(answers: Sequence[Answer], system: str) -> dict[str, float]:
    """Share of votes and of instances that a system wins, and the raters' agreement.

    Returns:
        ``vote_share``, ``majority_share`` (ties count half), ``unanimous_share`` and
        ``fleiss_kappa`` (over instances with the most frequent number of raters).

    Raises:
        UserError: no answer, or none that names the system.
    """
    if not any(system in (answer.chosen, answer.rejected) for answer in answers):
        raise UserError(f"no answer is about '{system}'; named are {{{_names(answers)}}}")
    votes: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        votes[answer.instance].append(answer.chosen == system)
    wins = [0.5 if name is None else float(name == system) for name in majority(answers).values()]
    return {
        "vote_share": float(np.mean([v for row in votes.values() for v in row])),
        "majority_share": float(np.mean(wins)),
        "unanimous_share": float(np.mean([len(set(row)) == 1 for row in votes.values()])),
        "fleiss_kappa": fleiss_kappa([[sum(r), len(r) - sum(r)] for r in votes.values()]),
    }


def _add_orders(rows: Sequence[dict[str, str]], path: Path, key: Path) -> None:
    orders = read_key(key)
    for number, row in enumerate(rows, start=2):
        if row["InstanceNum"] not in orders:
            raise UserError(
                f"{path}, row {number}: {key} has no instance {row['InstanceNum']!r}: put the key "
                "that was written with this form next to the answers"
            )
        row["Order"] = orders[row["InstanceNum"]]


def _names(answers: Sequence[Answer]) -> str:
    return ", ".join(sorted({name for a in answers for name in (a.chosen, a.rejected) if name}))
