"""Occupations and skills of the ESCO classification.

Source: European Commission, ESCO v1 (reuse under Decision 2011/833/EU).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from common.data.lookup import bundled
from common.data.tables import read_jsonl

FOLDER = "esco-occupations"


@dataclass(frozen=True)
class Occupation:
    """One entry.

    Attributes:
        uri: its address, unique.
        title: the preferred title.
        other_titles: alternative ones, distinct, without the preferred title in any case.
        description: one to a few sentences, which begin with the title in the plural as a rule.
        group: four digits of ISCO-08; occupations of a group are related.
    """

    uri: str
    title: str
    other_titles: tuple[str, ...]
    description: str
    group: str


def load_occupations(root: str | None = None) -> tuple[Occupation, ...]:
    """All occupations, in file order.

    Args:
        root: ``cfg.data.root``.

    Raises:
        UserError: the bundled set is missing or damaged.
    """
    return _occupations(bundled(FOLDER, root) / "occupations.jsonl.gz")


def load_skill_labels(root: str | None = None) -> dict[str, str]:
    """Spelling -> name of the skill, of all preferred and alternative labels.

    Each spelling names itself: in the bundled copy most alternative labels are in the row of another
    skill (one in 25 shares a word with it), so they find skills in a text but do not group them.

    Args:
        root: ``cfg.data.root``.

    Raises:
        UserError: the bundled set is missing or damaged.
    """
    rows = read_jsonl(bundled(FOLDER, root) / "skills.jsonl.gz", ("skill", "alt_labels"))
    return {label: label for row in rows for label in (row["skill"], *row["alt_labels"])}


@lru_cache(1)
def _occupations(path: Path) -> tuple[Occupation, ...]:
    rows = read_jsonl(path, ("uri", "title", "alt_titles", "description", "isco"))
    occupations = []
    for row in rows:
        plain = (" ".join(title.split()) for title in row["alt_titles"])
        others = {t.casefold(): t for t in plain if t and t.casefold() != row["title"].casefold()}
        occupations.append(
            Occupation(
                row["uri"], row["title"], tuple(others.values()), row["description"], row["isco"]
            )
        )
    return tuple(occupations)
