"""Semantic trees of dialogue turns (domain, intent, slot, value) and how much two of them agree.

Source: He et al. 2022, "SPACE-2", section 3.2 (semantic tree structure), arXiv 2209.06638, and its
released code (`scores.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

Frame = Mapping[str, Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]]
"""{domain: {intent: {slot: [{"value": text, "span": [start, end] or None}, ...]}}}.

{} is not a tree.
"""

VIEWS = ("D", "I", "S", "V", "DI", "IS", "SV", "DIS", "ISV", "DISV")
"""Levels of the tree that a view looks at: nodes, then contiguous paths of two, three and four."""

DEFAULT_DOMAIN, DEFAULT_INTENT = "DEFAULT_DOMAIN", "DEFAULT_INTENT"
PLACEHOLDERS = (DEFAULT_DOMAIN.lower(), DEFAULT_INTENT.lower())
_LEVELS = "DISV"


def paths(frame: Frame) -> Iterator[tuple[str, ...]]:
    """Every path from a domain down: (d), (d, i), (d, i, s) and (d, i, s, v), lower-case, stripped.

    >>> list(paths({"Hotel": {"inform": {"area": [{"value": " North"}]}}}))[-1]
    ('hotel', 'inform', 'area', 'north')
    """
    for domain, intents in frame.items():
        d = _norm(domain)
        yield (d,)
        for intent, slots in intents.items():
            i = _norm(intent)
            yield d, i
            for slot, values in slots.items():
                s = _norm(slot)
                yield d, i, s
                for value in values:
                    yield d, i, s, _norm(value["value"])


def view_sets(frame: Frame) -> dict[str, frozenset[str]]:
    """Elements of the ten views: nodes, and contiguous paths joined by "-".

    An element that *contains* a placeholder is left out, so "hotel-default_intent-area" goes while
    the node "area" stays.

    Args:
        frame: annotation of a turn.

    >>> tree = {"DEFAULT_DOMAIN": {"DEFAULT_INTENT": {"date": [{"value": "Today"}]}}}
    >>> {view: sorted(found) for view, found in view_sets(tree).items() if found}
    {'S': ['date'], 'V': ['today'], 'SV': ['date-today']}
    """
    elements_of: dict[str, set[str]] = {view: set() for view in VIEWS}
    for path in paths(frame):
        depth = len(path)
        for start in range(depth):  # every path that ends at the new node
            elements_of[_LEVELS[start:depth]].add("-".join(path[start:]))
    return {
        view: frozenset(e for e in elements if not any(p in e for p in PLACEHOLDERS))
        for view, elements in elements_of.items()
    }


def is_empty(frame: Frame) -> bool:
    """Whether a turn counts as unlabelled: no domain, or nothing but default intents without slots.

    >>> is_empty({}), is_empty({"hotel": {}}), is_empty({"hotel": {"DEFAULT_INTENT": {}}})
    (True, True, True)
    >>> is_empty({"DEFAULT_DOMAIN": {"card_arrival": {}}})
    False
    """
    return not any(
        slots or _norm(intent) != DEFAULT_INTENT.lower()
        for intents in frame.values()
        for intent, slots in intents.items()
    )


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """|a and b| / |a or b|; 0 of two empty sets."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def view_scores(a: Frame, b: Frame) -> list[float]:
    """Scores of two trees under the ten views, in the order of `VIEWS`, each in [0, 1].

    >>> a = {"hotel": {"inform": {"area": [{"value": "north"}], "price": [{"value": "cheap"}]}}}
    >>> b = {"hotel": {"inform": {"area": [{"value": "north"}]}}}
    >>> view_scores(a, b)
    [1.0, 1.0, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    first, second = view_sets(a), view_sets(b)
    return [jaccard(first[view], second[view]) for view in VIEWS]


def combined_score(a: Frame, b: Frame, views: Sequence[str] = VIEWS) -> float:
    """Mean of the scores over the views in which one of the trees has an element; 0 without any."""
    first, second = view_sets(a), view_sets(b)
    scores = [jaccard(first[v], second[v]) for v in views if first[v] or second[v]]
    return sum(scores) / len(scores) if scores else 0.0


def element_ids(elements: Iterable[str]) -> np.ndarray:
    """Hashes of texts, sorted int64 >= 0, equal in every process."""
    return np.array(sorted(_hashed(e) for e in elements), dtype=np.int64)


def tree_ids(frame: Frame, views: Sequence[str] = VIEWS) -> list[np.ndarray]:
    """The sets of some views as ids; of an empty tree (`is_empty`) nothing."""
    if is_empty(frame):
        return [np.empty(0, dtype=np.int64)] * len(views)
    sets = view_sets(frame)
    return [element_ids(sets[view]) for view in views]


def whole_tree_id(frame: Frame) -> np.ndarray:
    """One id for the whole tree: two sets of it are equal or disjoint (hard labels).

    () of an empty tree.
    """
    if is_empty(frame):
        return np.empty(0, dtype=np.int64)
    return element_ids([repr(sorted(set(paths(frame))))])


def view_matrices(
    frames: Sequence[Frame], views: Sequence[str] = VIEWS, others: Sequence[Frame] | None = None
) -> np.ndarray:
    """Scores of all pairs, (K, N, M) float32, for evaluation sets of some thousand turns.

    An empty tree (`is_empty`) has nothing in common with any other, as in `tree_ids`: training
    makes the same weights in tiles, and this is the form to read and to compare with.

    Args:
        frames: N trees.
        views: K of the ten.
        others: M trees; None: the same, and the diagonal is 1, that of empty trees too.
    """
    first, second = (
        [{} if is_empty(f) else view_sets(f) for f in side or ()] for side in (frames, others)
    )
    nothing: frozenset[str] = frozenset()
    matrices = [
        overlap(
            *_incidence(
                [f.get(v, nothing) for f in first],
                None if others is None else [f.get(v, nothing) for f in second],
            )
        )
        for v in views
    ]
    stacked = np.stack(matrices)
    if others is None:
        stacked[:, np.arange(len(frames)), np.arange(len(frames))] = 1.0
    return stacked


def combined_matrix(frames: Sequence[Frame], views: Sequence[str] = VIEWS) -> np.ndarray:
    """`combined_score` of all pairs, (N, N) float32."""
    total = np.zeros((len(frames), len(frames)), dtype=np.float32)
    count = np.zeros_like(total)
    for view in views:
        sets = [view_sets(f)[view] for f in frames]
        has = np.array([bool(s) for s in sets])
        total += overlap(*_incidence(sets, None))
        count += has[:, None] | has[None]
    mean: np.ndarray = total / np.maximum(count, 1)
    return mean


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Jaccard of all pairs of rows of two 0/1 matrices (N, E) and (M, E), (N, M) float32."""
    both = first @ second.T
    union = first.sum(1)[:, None] + second.sum(1)[None] - both
    ratio: np.ndarray = both / np.maximum(union, 1)
    return ratio


def _incidence(
    sets: Sequence[frozenset[str]], others: Sequence[frozenset[str]] | None
) -> tuple[np.ndarray, np.ndarray]:
    column = {e: i for i, e in enumerate(sorted(set().union(*sets, *(others or ()))))}

    def matrix(rows: Sequence[frozenset[str]]) -> np.ndarray:
        incidence = np.zeros((len(rows), max(1, len(column))), dtype=np.float32)
        for line, row in zip(incidence, rows, strict=True):
            line[[column[e] for e in row]] = 1.0
        return incidence

    first = matrix(sets)
    return first, first if others is None else matrix(others)


def _norm(text: str) -> str:
    return str(text).lower().strip()


def _hashed(text: str) -> int:
    digest = blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # fits int64
