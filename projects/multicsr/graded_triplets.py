"""Triplets with graded similarities: CSV files, parser of a judge's answers, reversal, filter."""

import csv
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from common.config import UserError
from common.data.offline import content_key
from common.data.tables import read_csv
from common.files import write_bytes

TRIPLET = ("sent0", "sent1", "hard_neg")
SCORES = ("positive_score", "negative_score")
_GRADE = re.compile(r"[0-5](\.[0-9])?")  # `d` or `d.d`
_ABOVE = 6  # every grade lies below it
GapMode = Literal["paper", "official_neq"]


class GradedTriplet(NamedTuple):
    """Premise, positive, hard negative, and their similarities to the premise."""

    sent0: str
    sent1: str
    hard_neg: str
    positive_score: float | None = None  # a, 0 to 5; None: not scored, or no score in the answer
    negative_score: float | None = None  # b

    @property
    def texts(self) -> tuple[str, str, str]:
        """The three texts."""
        return self[:3]

    @property
    def key(self) -> str:
        """Content hash that scores are joined by."""
        return content_key(self.texts)


def parse_grade(answer: str) -> float | None:
    """A similarity in the answer of a language model; None if it is not exactly one.

    ``d`` or ``d.d`` with a first digit of 0 to 5, white space around it allowed.

    Source: released code of Wang et al. 2024 (MultiCSR), arXiv 2310.10962.

    >>> [parse_grade(text) for text in (" 4.5", "3", "4.50", "6", "4/5")]
    [4.5, 3.0, None, None, None]
    """
    text = answer.strip()
    return float(text) if _GRADE.fullmatch(text) else None


def unreversed(triplet: GradedTriplet) -> GradedTriplet:
    """Positive and hard negative exchanged where the negative is graded higher.

    Source: Wang et al. 2024, stage 2 and released code, arXiv 2310.10962.

    >>> unreversed(GradedTriplet("a", "b", "c", 1.0, 4.0))[1:]
    ('c', 'b', 4.0, 1.0)
    """
    a, b = triplet.positive_score, triplet.negative_score
    if a is None or b is None or b <= a:
        return triplet
    return GradedTriplet(triplet.sent0, triplet.hard_neg, triplet.sent1, b, a)


@dataclass(frozen=True)
class TripletFilter:
    """Keep a triplet iff a >= alpha, b <= beta and a >= b + gamma; equality is kept.

    Source: Wang et al. 2024, stage 2, arXiv 2310.10962.

    Attributes:
        alpha: least similarity of the positive.
        beta: largest similarity of the hard negative.
        gamma: least difference; 0: none.
        gap_mode: "official_neq": with a gamma other than 0 only a != b is asked, as in the release.
    """

    alpha: float = 3.0
    beta: float = 3.0
    gamma: float = 1.0
    gap_mode: GapMode = "paper"

    def slack(self, triplet: GradedTriplet) -> float:
        """By how much the tightest of the three inequalities holds; below 0 it does not.

        Raises:
            ValueError: a triplet without scores.
        """
        a, b = triplet.positive_score, triplet.negative_score
        if a is None or b is None:
            raise ValueError("a triplet without scores has no slack")
        slack = min(a - self.alpha, self.beta - b)
        if self.gamma == 0:
            return slack
        if self.gap_mode == "official_neq":
            return slack if a != b else min(slack, -1.0)
        # the sum is that of the inequality as it is written: 3.3 >= 2.3 + 1.0
        return min(slack, a - (b + self.gamma))

    def keeps(self, triplet: GradedTriplet) -> bool:
        """Whether the scores pass; a triplet without both scores never does."""
        if triplet.positive_score is None or triplet.negative_score is None:
            return False
        return self.slack(triplet) >= 0


# thresholds of the released script by its number: alpha, beta, and whether the gap is asked for
PRESETS: Mapping[int, tuple[float, float, bool]] = {
    2: (4, 3, False),
    3: (4, 2, False),
    4: (5, 3, False),
    5: (5, 2, False),
    6: (4, 1, False),
    7: (4, 0, False),
    8: (5, 1, False),
    9: (5, 0, False),
    10: (3, 0, False),
    11: (3, 1, False),
    12: (3, 2, False),
    13: (4, 4, True),
    14: (5, 4, False),
    15: (3, 3, True),
    16: (2, 0, False),
    17: (2, 1, False),
    18: (2, 2, True),
}


@dataclass(frozen=True)
class Curated:
    """What a filter left, and what it met.

    Attributes:
        kept: triplets in their order, reversed ones put right.
        places: their places among all.
        total: triplets before.
        unscored: dropped for want of a score.
        swapped: places of the triplets that were reversed, whether kept or not.
        mean_positive: mean a of the scored ones, after reversal; nan without any.
        mean_negative: mean b.
    """

    kept: list[GradedTriplet]
    places: list[int]
    total: int
    unscored: int
    swapped: list[int]
    mean_positive: float
    mean_negative: float

    def metrics(self) -> dict[str, float]:
        """Shares and means for the log."""
        scored = self.total - self.unscored
        metrics = {
            "kept_share": len(self.kept) / max(1, self.total),
            "swap_rate": len(self.swapped) / max(1, scored),
            "parse_failure_rate": self.unscored / max(1, self.total),
        }
        if scored and self.mean_positive == self.mean_positive:  # controls have no grades: nan
            metrics |= {
                "mean_positive_score": self.mean_positive,
                "mean_negative_score": self.mean_negative,
            }
        return metrics


def curate(
    triplets: Sequence[GradedTriplet],
    keeps: Callable[[GradedTriplet], bool],
) -> Curated:
    """Put reversed triplets right, then filter.

    Args:
        triplets: with scores; those without both are dropped and counted.
        keeps: what is kept of the rest, such as `TripletFilter().keeps`.
    """
    kept, places, swapped, scores = [], [], [], []
    for place, triplet in enumerate(triplets):
        if triplet.positive_score is None or triplet.negative_score is None:
            continue
        right = unreversed(triplet)
        if right is not triplet:
            swapped.append(place)
        scores.append((right.positive_score or 0.0, right.negative_score or 0.0))
        if keeps(right):
            kept.append(right)
            places.append(place)
    count = len(scores)
    means = [sum(side) / count if count else float("nan") for side in zip(*scores, strict=True)]
    means = means or [float("nan")] * 2
    return Curated(kept, places, len(triplets), len(triplets) - count, swapped, *means)


def read_triplets(path: str | Path) -> list[GradedTriplet]:
    """Triplets of a CSV with the header ``sent0,sent1,hard_neg``, with or without the two scores.

    Rows without one of the three texts are left out, with a warning that counts them.

    Raises:
        UserError: file missing, empty, without these columns, or a score that is no grade from 0 to
            5.9.
    """
    path = Path(path).expanduser()
    rows = read_csv(path, TRIPLET, fill="", quoted=True)  # SimCSE's format, as `load_text_rows`
    if not rows:
        raise UserError(f"{path} has no rows")
    scored = [name for name in SCORES if name in rows[0]]
    if len(scored) == 1:
        raise UserError(
            f"{path} has a column {scored[0]} only: both {' and '.join(SCORES)} or none"
        )
    triplets = []
    for number, row in enumerate(rows, start=2):
        try:
            grades = [float(row[name]) if row[name].strip() else None for name in scored]
        except ValueError:
            raise UserError(f"{path}, line {number}: a score is not a number") from None
        if not all(grade is None or 0 <= grade < _ABOVE for grade in grades):  # nan is refused too
            raise UserError(f"{path}, line {number}: a score is not from 0 to 5.9")
        if all(row[name].strip() for name in TRIPLET):
            triplets.append(GradedTriplet(*(row[name] for name in TRIPLET), *grades))
    if not triplets:
        raise UserError(f"{path} has no row with all of {', '.join(TRIPLET)}")
    if len(triplets) < len(rows):
        lost = f"{len(rows) - len(triplets)} of {len(rows)} rows lack a text"
        warnings.warn(f"{path}: {lost} and are left out", stacklevel=2)
    return triplets


def write_triplets(path: str | Path, triplets: Sequence[GradedTriplet], *, scores: bool) -> None:
    """Write a CSV, whole or not at all.

    Args:
        path: its folder is made.
        triplets: rows.
        scores: also the two columns of scores; a missing one is an empty cell.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    # up to Python 3.12 the writer leaves a carriage return bare, where readers end the row
    quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    names = (*TRIPLET, *SCORES) if scores else TRIPLET
    writer.writerow(names)
    for row in triplets:
        cells = ["" if cell is None else cell for cell in row[: len(names)]]
        (quoting if "\r" in "".join(row.texts) else writer).writerow(cells)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue().encode())


def with_scores(
    triplets: Sequence[GradedTriplet], scored: Sequence[GradedTriplet], where: object
) -> list[GradedTriplet]:
    """Triplets with scores that are joined by content, whatever their order.

    Args:
        triplets: without scores.
        scored: hold their scores, and may hold more.
        where: names `scored` in messages.

    Raises:
        UserError: a triplet that is not among the scored ones.
    """
    by_key = {triplet.key: triplet for triplet in scored}
    merged = []
    for triplet in triplets:
        match = by_key.get(triplet.key)
        if match is None:
            raise UserError(
                f"{where} has no score of '{triplet.sent0[:40]}' | '{triplet.sent1[:40]}': score "
                "these triplets first (make run TASK=score)"
            )
        merged.append(GradedTriplet(*triplet.texts, match.positive_score, match.negative_score))
    return merged


def preset(number: int, gamma: float = 1.0) -> TripletFilter:
    """Filter of the released script's type 2 to 18.

    >>> preset(15)
    TripletFilter(alpha=3, beta=3, gamma=1.0, gap_mode='paper')
    """
    alpha, beta, gap = PRESETS[number]
    return replace(TripletFilter(), alpha=alpha, beta=beta, gamma=gamma if gap else 0.0)
