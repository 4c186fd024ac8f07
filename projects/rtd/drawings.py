"""The small real task: bundled drawings whose families differ in skin tone, gender or colour.

A composed query is a drawing of a held-out family and one change; its answer is the drawing of the
same family with this change and no other. Triplets for training come from the names of the other
families.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from common.data.image_text.captions import CaptionFiles
from common.data.lookup import bundled
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl
from common.families.image_text.drawings import decode_drawings
from projects.rtd.triplets import Triplet
from projects.rtd.variants import (
    COLOURS,
    GENDERS,
    Attribute,
    family_of,
    family_split,
    tone_of,
)

POOL = "drawings"
PHRASINGS = 4
DEV_SHARE = 0.25  # of the held-out families, for choices; the rest is the test part
# the sentence of a query, then further ones that training sees too; they go on after "a photo of $
# that"
CONDITIONS: dict[Attribute, tuple[str, ...]] = {
    "tone": (
        "has {} skin tone",
        "is shown with {} skin tone",
        "turns the skin {}",
        "has {} skin instead",
    ),
    "gender": ("shows a {}", "is a {} instead", "has a {} in it", "replaces the figure by a {}"),
    "colour": ("is {}", "turns {}", "has the colour {}", "is {} instead"),
}


class Drawing(NamedTuple):
    """A named drawing and what tells it from the others of its family."""

    folder: str
    row: int
    name: str
    family: str
    tone: str | None
    gender: tuple[str, ...]
    colour: tuple[str, ...]


class Query(NamedTuple):
    """Places of reference and target in a list of drawings, and the change."""

    reference: int
    condition: str
    target: int
    kind: str
    family: str


def read_drawings(root: str | None = None) -> list[Drawing]:
    """All bundled emoji drawings, without and with a skin tone."""
    drawings = []
    for folder in ("emoji-captions", "emoji-tones"):
        rows = read_jsonl(bundled(f"{folder}/captions.jsonl.gz", root), ("base", "en"))
        drawings += [_drawing(folder, i, row["en"]) for i, row in enumerate(rows)]
    return drawings


def _drawing(folder: str, row: int, name: str) -> Drawing:
    words = re.findall(
        r"[\w'-]+", name.lower().rpartition(": ")[0] if tone_of(name) else name.lower()
    )
    gender = tuple(w for w in words if w in GENDERS)
    colour = tuple(w for w in words if w in COLOURS)
    return Drawing(folder, row, name, family_of(name), tone_of(name), gender, colour)


def decode(drawings: Sequence[Drawing], size: int, root: str | None = None) -> Tensor:
    """Pictures (N, 3, size, size) uint8, in the given order."""
    return decode_drawings([(d.folder, d.row) for d in drawings], size, root)


def variants(drawings: Sequence[Drawing]) -> set[str]:
    """Families of more than one drawing."""
    names = defaultdict(set)
    for d in drawings:
        names[d.family].add(d.name)
    return {family for family, members in names.items() if len(members) > 1}


def part_of(family: str) -> str:
    """Whether a family is for training, for choices (dev) or for the test."""
    if family_split(family) == "train":
        return "train"
    return "dev" if stable_fraction(f"dev {family}") < DEV_SHARE else "test"


def unseen(drawings: Sequence[Drawing]) -> list[int]:
    """Drawings of held-out families: the bundled dual encoder was not trained on them."""
    several = variants(drawings)
    return [
        i for i, d in enumerate(drawings) if d.family in several and part_of(d.family) != "train"
    ]


def changes(drawings: Sequence[Drawing]) -> Iterator[tuple[Attribute, int, int, str]]:
    """(attribute, reference, target, new value) of drawings that differ in one attribute alone.

    A target that another drawing equals in all attributes is left out, for its answer would not be
    unique.
    """
    families = defaultdict(list)
    for i, d in enumerate(drawings):
        families[d.family].append(i)
    for members in families.values():
        keys = [(drawings[i].tone, drawings[i].gender, drawings[i].colour) for i in members]
        for (a, old), (b, new) in itertools.permutations(zip(members, keys, strict=True), 2):
            if keys.count(new) > 1:
                continue
            differs = [x != y for x, y in zip(old, new, strict=True)]
            if differs == [True, False, False] and new[0] is not None:
                yield "tone", a, b, new[0]
            elif differs == [False, True, False] and len(new[1]) == 1 and len(old[1]) <= 1:
                yield "gender", a, b, new[1][0]
            elif differs == [False, False, True] and len(new[2]) == 1 and len(old[2]) <= 1:
                yield "colour", a, b, new[2][0]


def queries(drawings: Sequence[Drawing], split: str) -> list[Query]:
    """Composed queries of the held-out families of one part."""
    return [
        Query(a, CONDITIONS[kind][0].format(value), b, kind, drawings[a].family)
        for kind, a, b, value in changes(drawings)
        if part_of(drawings[a].family) == split
    ]


def training_captions(root: str | None = None) -> list[str]:
    """Names and phrasings of the drawings that the bundled dual encoder was trained on."""
    drawings = read_drawings(root)
    several = variants(drawings)
    held = {d.name for d in drawings if d.family in several and part_of(d.family) != "train"}
    folder = bundled(POOL, root)
    further = [folder / f"train_phrasing{i + 1}.txt" for i in range(PHRASINGS)]
    files = CaptionFiles(folder / "train.csv", further, root="")
    texts = [files.texts(i) for i in range(len(files))]
    captions = [t for row in texts if row[0] not in held for t in row]
    captions += [d.name for d in drawings if d.tone is not None and part_of(d.family) == "train"]
    return sorted(set(captions))


def family_triplets(drawings: Sequence[Drawing]) -> list[Triplet]:
    """Changes among the names of training families, in every wording."""
    return [
        Triplet(drawings[a].name, wording.format(value), drawings[b].name)
        for kind, a, b, value in changes(drawings)
        if part_of(drawings[a].family) == "train"
        for wording in CONDITIONS[kind]
    ]
