"""Selection by CLIP score, frequency filter, and what the data engine reports about them.

A row is ``{image, alt_text, entities: [{id, name, description, link_prob, clip_score}]}``.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.data.splits import stable_fraction
from projects.mofi.config import SelectConfig

Row = dict[str, Any]
SCORE_BIN = 0.05
MOST_DROPPED = 20


def selected(scores: Sequence[float], threshold: float, slack: float) -> list[bool]:
    """Entities of an image that its pixels bear out: a high cosine, and nearly the best one.

    Args:
        scores: cosines of the image with the texts of its entities.
        threshold: least cosine.
        slack: >= 0, how far below the best one a cosine may lie.

    >>> selected([0.31, 0.28, 0.21], threshold=0.2, slack=0.05)
    [True, True, False]
    """
    best = max(scores, default=0.0)
    return [score >= threshold and score >= best - slack for score in scores]


def split_by_score(rows: Iterable[Row], select: SelectConfig) -> tuple[list[Row], list[Row]]:
    """Rows with the entities that are kept, and rows with those that are dropped; rows align."""
    kept: list[Row] = []
    dropped: list[Row] = []
    for row in rows:
        scores = [entity["clip_score"] for entity in row["entities"]]
        marks = selected(scores, select.threshold, select.slack)
        if not select.enabled:
            marks = [True] * len(marks)
        for part, is_kept in ((kept, True), (dropped, False)):
            entities = [
                e for e, mark in zip(row["entities"], marks, strict=True) if mark is is_kept
            ]
            part.append({**row, "entities": entities})
    return kept, dropped


def frequency_filter(
    rows: Iterable[Row], min_images: int, cap: int | None = None
) -> tuple[list[Row], dict[str, int]]:
    """Drop rare entities, thin out frequent ones, then images without any; number the rest.

    An entity of n > cap images stays with sqrt(cap / n) of them, the same ones in every run: a hash
    of image and entity decides. Numbers follow the order of the ids.

    Args:
        rows: see the head of the file.
        min_images: images that an entity needs.
        cap: images up to which all are kept; None thins nothing.

    Returns:
        Rows in their order, and number by entity id.
    """
    rows = list(rows)
    times = Counter(e["id"] for row in rows for e in row["entities"])

    def stays(row: Row, entity: Row) -> bool:
        count = times[entity["id"]]
        if count < min_images:
            return False
        share = 1.0 if cap is None or count <= cap else math.sqrt(cap / count)
        return stable_fraction(f"{row['image']}\t{entity['id']}") < share

    filtered = [{**row, "entities": [e for e in row["entities"] if stays(row, e)]} for row in rows]
    filtered = [row for row in filtered if row["entities"]]
    ids = sorted({e["id"] for row in filtered for e in row["entities"]})
    return filtered, {name: number for number, name in enumerate(ids)}


def entity_table(
    rows: Iterable[Row], numbers: Mapping[str, int]
) -> list[tuple[str, str, str, int]]:
    """(id, name, description, count) of every entity, in the order of their numbers."""
    first: dict[str, Row] = {}
    times: Counter[str] = Counter()
    for row in rows:
        for entity in row["entities"]:
            first.setdefault(entity["id"], entity)
            times[entity["id"]] += 1
    return [
        (name, first[name]["name"], first[name]["description"], times[name])
        for name in sorted(numbers, key=lambda name: numbers[name])
    ]


def statistics(
    rows: Sequence[Row], linked: Sequence[Row], dropped: Sequence[Row]
) -> dict[str, Any]:
    """What the set is like, and what the filters took away.

    Args:
        rows: of the finished set.
        linked: before both filters.
        dropped: entities that the CLIP score took away, by row of `linked`.

    Returns:
        Counts; entities per image; images per entity in powers of two; CLIP scores of kept and
        dropped entities in bins of 0.05; the entities that were dropped most often.
    """
    entities = [e for row in rows for e in row["entities"]]
    times = Counter(e["id"] for e in entities)
    gone = [e for row in dropped for e in row["entities"]]
    lost = Counter(e["name"] for e in gone)
    seen = Counter(e["name"] for row in linked for e in row["entities"])
    return {
        "num_images": len(rows),
        "num_entities": len(times),
        "num_images_before": len(linked),
        "num_entities_before": len({e["id"] for row in linked for e in row["entities"]}),
        "entities_per_image": _sorted(Counter(len(row["entities"]) for row in rows)),
        "images_per_entity_log2": _sorted(Counter(int(math.log2(n)) for n in times.values())),
        "clip_score_kept": _histogram(e["clip_score"] for e in entities),
        "clip_score_dropped": _histogram(e["clip_score"] for e in gone),
        "dropped_most": [
            {"name": name, "dropped": count, "of": seen[name]}
            for name, count in sorted(lost.items(), key=lambda item: (-item[1], item[0]))[
                :MOST_DROPPED
            ]
        ],
    }


def hand_check(rows: Sequence[Row], count: int = 100) -> list[str]:
    """Lines (image, alt-text, entities with scores) of rows chosen by a hash, to check by hand."""
    order = sorted(rows, key=lambda row: stable_fraction(str(row["image"])))[:count]
    return [
        "\t".join(
            [
                str(row["image"]),
                " ".join(str(row["alt_text"]).split()),
                "; ".join(f"{e['name']} ({e['clip_score']:.2f})" for e in row["entities"]),
            ]
        )
        for row in order
    ]


def _histogram(scores: Iterable[float]) -> dict[str, int]:
    counts = Counter(math.floor(score / SCORE_BIN) for score in scores)
    return {f"{place * SCORE_BIN:.2f}": counts[place] for place in sorted(counts)}


def _sorted(counts: Counter[int]) -> dict[str, int]:
    return {str(key): counts[key] for key in sorted(counts)}
