"""Blind A/B comparison of texts by people: the form, the answers, majority and agreement."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng
from common.data.tables import read_csv

COLUMNS = ("Prefix", "First", "Second", "Order", "InstanceNum")
CHOICE = re.compile(r"^\W*(?:text\s*)?(1|2|first|second)\b", re.I)
_ORDER_STREAM = 62


@dataclass(frozen=True)
class Answer:
    """What one rater said about one pair."""

    instance: str
    chosen: str  # name of the preferred system
    explanation: str
    rejected: str = ""  # name of the other one


def write_form(
    path: Path, prefixes: Sequence[str], systems: Mapping[str, Sequence[str]], seed: int = 0
) -> int:
    """Write a CSV with two continuations of each prefix in random order.

    The columns are those of the RankGen release (``Prefix, First, Second, Order, InstanceNum``).
    ``Order`` names the systems; hide it from the raters.

    Args:
        path: the file.
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
    rows = []
    for i, prefix in enumerate(prefixes):
        order = shuffled(names, seed, i)
        first, second = (systems[name][i] for name in order)
        if first != second:
            rows.append([prefix, first, second, ",".join(order), i])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return len(rows)


def shuffled(names: Sequence[str], seed: int, item: int) -> list[str]:
    """Order in which the systems of an item are shown."""
    return [names[j] for j in sample_rng(seed, 0, item, _ORDER_STREAM).permutation(len(names))]


def read_answers(path: Path) -> list[Answer]:
    """Answers of raters, one row each.

    Either of our form with the columns ``InstanceNum``, ``Order``, ``Choice`` (1 or 2) and
    ``Explanation``, or the crowd-sourcing export of the RankGen release (``HITId``,
    ``Input.Order``, ``Answer.utterance``), whose free text begins with the choice.

    Raises:
        UserError: missing file or columns, or a row without a choice.
    """
    rows = read_csv(path)
    if not rows:
        raise UserError(f"{path} holds no answers")
    names = ("HITId", "Input.Order", "Answer.utterance")
    if not set(names) <= rows[0].keys():
        names = ("InstanceNum", "Order", "Choice")
        if not set(names) <= rows[0].keys():
            raise UserError(f"{path} needs the columns {', '.join(names)}")
    found = []
    for number, row in enumerate(rows, start=2):
        text = row[names[2]]
        choice = CHOICE.match(text)
        order = [name.strip() for name in row[names[1]].split(",")]
        if choice is None or len(order) != 2:
            raise UserError(f"{path}, row {number}: no choice between two texts in {text[:60]!r}")
        first = choice[1].lower() in ("1", "first")
        chosen, rejected = order if first else order[::-1]
        found.append(Answer(row[names[0]], chosen, row.get("Explanation") or text, rejected))
    return found


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


def fleiss_kappa(counts: Sequence[Sequence[int]]) -> float:
    """Agreement beyond chance of several raters.

    Source: Fleiss 1971, "Measuring nominal scale agreement among many raters", doi 10.1037/h0031619.

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


def _names(answers: Sequence[Answer]) -> str:
    return ", ".join(sorted({name for a in answers for name in (a.chosen, a.rejected) if name}))
