"""Altered copies of labelled texts: made by EDA, or read from a cache that an offline stage wrote.

A cache is JSON lines ``{id, field, method, text}``: which text of an example, by its content, was
reworded how. Training reads it and never makes it.
"""

import random
import warnings
from collections.abc import Sequence
from pathlib import Path

from common.config import UserError
from common.data.offline import content_key
from common.data.splits import stable_fraction
from common.data.tables import read_jsonl
from common.data.text.labelled.batches import Copies
from common.data.text.labelled.readers import LabelledSet
from projects.peft_augmentation.augmentation.eda import Synonyms, eda


def eda_copies(
    data: LabelledSet,
    synonyms: Synonyms,
    reworded: Sequence[int],
    *,
    alpha: float = 0.1,
    copies: int = 4,
    seed: int = 0,
) -> Copies:
    """EDA of every example: each of its texts that may be reworded is altered on its own.

    A copy depends on the text, its place and the seed, not on the other examples.

    Args:
        data: N examples.
        synonyms: lower-case word -> its synonyms.
        reworded: places of the texts that change; the others stay as they are.
        alpha: see `eda`.
        copies: of each example.
        seed: of the draws.

    Returns:
        For each example its copies, fewer where a text has no letters.
    """
    found: Copies = []
    for texts in data.texts:
        changed = {
            place: eda(
                texts[place],
                synonyms,
                text_rng(seed, place, texts[place]),
                alpha=alpha,
                copies=copies,
            )
            for place in reworded
        }
        number = min(len(own) for own in changed.values())
        found.append(
            [
                tuple(
                    changed[place][k] if place in changed else text
                    for place, text in enumerate(texts)
                )
                for k in range(number)
            ]
        )
    return found


def cached_copies(data: LabelledSet, path: str | Path, reworded: Sequence[int]) -> Copies:
    """Copies of every example that a cache holds; rows of other examples are passed over.

    Of a pair whose texts are both reworded the k-th copies of both belong together. An example
    without a copy stands alongside itself; how many do is said, and more than half are refused.

    Args:
        data: N examples.
        path: the cache.
        reworded: places of the texts that may change.

    Raises:
        UserError: no such file, other columns, or a cache that lacks more than half of the
            examples.
    """
    rows = read_jsonl(path, ("id", "field", "method", "text"))
    known: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        known.setdefault((str(row["id"]), int(row["field"])), []).append(str(row["text"]))
    found: Copies = []
    for key, texts in zip(data.ids, data.texts, strict=True):
        own = {place: known.get((key, place), []) for place in reworded}
        number = max(len(options) for options in own.values())
        found.append(
            [
                tuple(_nth(own.get(place, []), k, text) for place, text in enumerate(texts))
                for k in range(number)
            ]
        )
    if missing := sum(not own for own in found):
        told = f"{path} has no copy of {missing} of the {len(data)} training examples"
        if 2 * missing > len(data):
            raise UserError(
                f"{told}: it was written for another seed or data.examples, or few rewordings"
                " passed its filters; run TASK=copies with this seed and this data.examples"
            )
        warnings.warn(f"{told}: these are used unchanged", stacklevel=2)
    return found


def text_rng(seed: int, place: int, text: str) -> random.Random:
    """Python's generator of one text."""
    return random.Random(int(stable_fraction(f"{seed} {place} {content_key(text)}") * 2**53))


def _nth(options: Sequence[str], k: int, text: str) -> str:
    return options[k] if k < len(options) else text
