"""Citations -> pairs of documents that a third one cites together, and pairs that none does.

Source: Small 1973, "Co-citation in the scientific literature"; Hallee et al. 2024, section "Data",
arXiv 2401.15713.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng
from common.data.splits import stable_fraction

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
TRIES = 50  # draws for each negative pair before a set counts as exhausted
_PAIR_STREAM = 2**31 + 83


class Pair(NamedTuple):
    """Two documents of a domain, and whether they belong together."""

    a: str
    b: str
    label: int
    domain: str


@dataclass(frozen=True)
class Collection:
    """Documents of one domain and what cites them.

    Attributes:
        domain: its name.
        texts: document -> text.
        citations: (citing, cited); what cites may be a document, a query, a module, a class.
        units: document -> what is split as one; without a unit it is split by itself.
    """

    domain: str
    texts: Mapping[str, str]
    citations: Sequence[tuple[str, str]]
    units: Mapping[str, str] = field(default_factory=dict)


def cocited(citations: Iterable[tuple[str, str]], documents: Iterable[str]) -> set[tuple[str, str]]:
    """Pairs of documents, each in order, that are cited by the same thing.

    A document that cites itself does not count as citing.

    Args:
        citations: (citing, cited).
        documents: those that count.

    >>> sorted(cocited([("x", "b"), ("x", "a"), ("b", "b"), ("b", "c"), ("y", "c")], "abc"))
    [('a', 'b')]
    """
    names, cited = set(documents), defaultdict[str, set[str]](set)
    for citing, document in citations:
        if citing != document and document in names:
            cited[citing].add(document)
    return {pair for papers in cited.values() for pair in combinations(sorted(papers), 2)}


def part_of(unit: str, shares: tuple[float, float]) -> Part:
    """Where a document (or what it is split with) goes, by its hash.

    Args:
        unit: its name.
        shares: of validation and test.
    """
    place = stable_fraction(unit)
    if place < shares[1]:
        return "test"
    return "valid" if place < shares[0] + shares[1] else "train"


def pairs_of(
    collection: Collection,
    shares: tuple[float, float],
    most: Callable[[Part], int | None] = lambda part: None,
    seed: int = 0,
) -> dict[Part, list[Pair]]:
    """Positive pairs of every part, and as many negative ones for validation and test.

    Where there are fewer negative pairs than positive ones, the positive ones are cut to their
    number.

    Documents without text are dropped, those of equal text are one. No document is in two parts:
    pairs across parts are lost. Negative pairs are drawn among the ends of the part's positive
    pairs, each as often as it occurs there, so that a document that is cited a lot gives nothing
    away.

    Args:
        collection: documents and citations.
        shares: of validation and test.
        most: part -> positive pairs, at most; None: all.
        seed: of the draws.

    Returns:
        Pairs, positive ones first, in an order of their own.

    Raises:
        UserError: a part for which no pair of a kind is found.
    """
    filled = {name: text for name, text in collection.texts.items() if text.strip()}
    first = {text: name for name, text in reversed(filled.items())}  # equal texts are one document
    names = {name: first[text] for name, text in filled.items()}
    texts, units = {name: text for text, name in first.items()}, collection.units
    cites = [
        (names.get(citing, citing), names.get(cited, cited))
        for citing, cited in collection.citations
    ]
    related = cocited(cites, texts)
    where = {name: part_of(units.get(name, text), shares) for name, text in texts.items()}
    pairs: dict[Part, list[Pair]] = {}
    for number, part in enumerate(PARTS):
        if part != "train" and not shares[number - 1]:
            pairs[part] = []
            continue
        rng = sample_rng(seed, number, 0, _PAIR_STREAM)
        inside = sorted(pair for pair in related if where[pair[0]] == where[pair[1]] == part)
        if not inside:
            raise UserError(
                f"domain '{collection.domain}': no two documents of the part '{part}' are cited "
                "together; give more citations or other shares"
            )
        order = rng.permutation(len(inside))[: most(part)]
        right = [inside[i] for i in order]
        wrong = [] if part == "train" else _negatives(right, related, rng)
        if part != "train" and not wrong:
            raise UserError(
                f"domain '{collection.domain}': all documents of the part '{part}' are cited"
                " together, so it has no negative pair; give more citations or other shares"
            )
        right = right if part == "train" else right[: len(wrong)]  # F1 depends on the balance
        rows = [(pair, 1) for pair in right] + [(pair, 0) for pair in wrong]
        pairs[part] = [Pair(texts[a], texts[b], y, collection.domain) for (a, b), y in rows]
    return pairs


def _negatives(
    right: Sequence[tuple[str, str]], related: set[tuple[str, str]], rng: np.random.Generator
) -> list[tuple[str, str]]:
    ends = [name for pair in right for name in pair]
    wrong: dict[tuple[str, str], None] = {}
    for drawn in rng.integers(len(ends), size=(TRIES * len(right), 2)).tolist():
        if len(wrong) == len(right):
            break
        a, b = sorted(ends[i] for i in drawn)
        if a != b and (a, b) not in related:
            wrong.setdefault((a, b))
    return list(wrong)
