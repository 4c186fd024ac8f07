"""Families of drawings that differ in one attribute: skin tone, gender or colour.

What a composed query changes ("the same, with dark skin") must be unseen in training, so families
as a whole are held out, drawings of every attribute with them.
"""

import re
from typing import Literal

from common.data.splits import Split, stable_fraction

Attribute = Literal["tone", "gender", "colour"]

GENDERS = frozenset(
    [
        "man",
        "woman",
        "men",
        "women",
        "person",
        "people",
        "boy",
        "girl",
        "male",
        "female",
        "mr",
        "mrs",
        "mx",
        "claus",
        "father",
        "mother",
    ]
)
COLOURS = frozenset(
    [
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "brown",
        "black",
        "white",
        "grey",
        "light",
    ]
)
_TONE = re.compile(r":? ([a-z-]+) skin tone$")
HELD_OUT = 0.5  # share of the families


def tone_of(name: str) -> str | None:
    """Skin tone that a name ends with.

    >>> tone_of("waving hand: medium-dark skin tone"), tone_of("waving hand")
    ('medium-dark', None)
    """
    match = _TONE.search(name)
    return match[1] if match else None


def family_of(name: str) -> str:
    """Name without tone, gender and colour; a name of such words alone keeps them.

    >>> family_of("woman running: dark skin tone"), family_of("red circle"), family_of("boy")
    ('running', 'circle', 'boy')
    """
    words = re.findall(r"[\w'-]+", _TONE.sub("", name).lower())
    return " ".join([w for w in words if w not in GENDERS | COLOURS] or words)


def family_split(name: str) -> Split:
    """Families by hash, half of them held out."""
    return "test" if stable_fraction(f"family {family_of(name)}") < HELD_OUT else "train"
