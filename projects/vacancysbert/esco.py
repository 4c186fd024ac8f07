"""Adverts and a benchmark made of the bundled ESCO occupations.

An occupation stands for adverts under all its titles. Clauses of its description take the place of
skills (the classification's own skills are not linked to occupations in the bundled copy): training
adverts get those of the first, third, ... sentence, test rows those of the others. An alternative
title that belongs to one occupation only is a query for the preferred one.
"""

from functools import lru_cache

from common.data.occupations import Occupation, load_occupations
from common.data.splits import stable_fraction
from projects.vacancysbert.normalisation import (
    ALL,
    ZERO_OVERLAP,
    TitleRow,
    share_a_word,
    title_key,
)
from projects.vacancysbert.phrases import clauses, sentences
from projects.vacancysbert.texts import without_title

TEST, DEV = 2500, 500  # queries of each of the two parts
SHARES = {ALL: 1 / 3, ZERO_OVERLAP: 3 / 5}  # of what is there, at most
AdRow = tuple[str, str, tuple[str, ...]]  # id, title, skills
Parts = tuple[list[AdRow], list[TitleRow], list[TitleRow], list[str]]


@lru_cache(1)
def esco_parts(root: str | None) -> Parts:
    """Training adverts, test rows, development rows and candidates; the same for every seed.

    Raises:
        UserError: the bundled set is missing.
    """
    occupations = load_occupations(root)
    owned = _unambiguous(occupations)
    held = _held_out(owned)
    trained = [_skills(o, first=True) for o in occupations]
    asked = [_skills(o, first=False) for o in occupations]
    siblings = _siblings(occupations, asked)

    def rows(part: str) -> list[TitleRow]:
        parts = []
        for (index, title), (where, kind) in held.items():
            if where == part:
                other = siblings[index]
                skills = without_title(asked[index], [title])
                related = without_title(asked[other], [title]) if skills else ()
                others = {"sibling_skills": related}  # for the same rows as the own skills
                parts.append(TitleRow(title, occupations[index].title, skills, kind, others))
        return parts

    ads = [
        (f"{o.uri}#{n}", title, trained[i])
        for i, o in enumerate(occupations)
        for n, title in enumerate((o.title, *o.other_titles))
        if (i, title) not in held and (n == 0 or (i, title) in owned)
    ]
    return ads, rows("test"), rows("dev"), [o.title for o in occupations]


def _unambiguous(occupations: tuple[Occupation, ...]) -> dict[tuple[int, str], bool]:
    """(occupation, alternative title) of a single occupation -> whether they share a word."""
    owners: dict[str, set[int]] = {}
    for i, o in enumerate(occupations):
        for title in (o.title, *o.other_titles):
            owners.setdefault(title_key(title), set()).add(i)
    return {
        (i, title): share_a_word(title, o.title)
        for i, o in enumerate(occupations)
        for title in o.other_titles
        if len(owners[title_key(title)]) == 1
    }


def _held_out(owned: dict[tuple[int, str], bool]) -> dict[tuple[int, str], tuple[str, str]]:
    """(occupation, title) -> ("test" or "dev", part of the benchmark), by hash of the title.

    Titles that differ in case only are one title, so none of them is left in training.
    """
    order = sorted(owned, key=lambda title: stable_fraction(f"normalisation {title_key(title[1])}"))
    held_out: dict[tuple[int, str], tuple[str, str]] = {}
    for kind in SHARES:
        free = [
            title for title in order if title not in held_out and (kind == ALL or not owned[title])
        ]
        count = min(TEST, int(len(free) * SHARES[kind]))
        for title in free[:count]:
            held_out[title] = ("test", kind)
        for title in free[count : count + min(DEV, len(free) // 10)]:
            held_out[title] = ("dev", kind)
    return held_out


def _skills(occupation: Occupation, *, first: bool) -> tuple[str, ...]:
    """Clauses of every second sentence, without the occupation's title."""
    part = sentences(occupation.description)[0 if first else 1 :: 2]
    phrases = [clause for sentence in part for clause in clauses(sentence)]
    return without_title(list(dict.fromkeys(phrases)), [occupation.title])


def _siblings(occupations: tuple[Occupation, ...], skills: list[tuple[str, ...]]) -> list[int]:
    """Another occupation with skills, of the same ISCO group if there is one, by hash."""
    having = sorted(
        (i for i in range(len(occupations)) if skills[i]),
        key=lambda i: stable_fraction(f"sibling {occupations[i].uri}"),
    )
    groups: dict[str, list[int]] = {}
    for i in having:
        for digits in range(5):
            groups.setdefault(occupations[i].group[:digits], []).append(i)
    siblings = []
    for i, o in enumerate(occupations):
        for digits in (4, 3, 2, 1, 0):
            near = [j for j in groups.get(o.group[:digits], []) if j != i]
            if near:
                siblings.append(near[int(stable_fraction(o.uri) * len(near))])
                break
        else:
            siblings.append(i)
    return siblings
