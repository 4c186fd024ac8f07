"""Augmentations of an item sequence: crop, mask, reorder.

Source: Xie et al. 2022, "Contrastive learning for sequential recommendation" (CL4SRec), arXiv
2010.14395; lengths as in the release of Qin et al. 2023, arXiv 2304.07763.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from projects.mclrec.interactions import PAD, Ids

Operator = Callable[[Ids, float, np.random.Generator], Ids]


def crop(items: Ids, ratio: float, rng: np.random.Generator) -> Ids:
    """A window of floor(l (1 - ratio)) items, at least one."""
    size = max(1, math.floor(len(items) * (1 - ratio)))
    start = int(rng.integers(len(items) - size + 1))
    return items[start : start + size]


def mask(items: Ids, ratio: float, rng: np.random.Generator) -> Ids:
    """Padding in place of floor(l ratio) items; there is no mask token, the length stays."""
    masked = items.copy()
    masked[rng.permutation(len(items))[: math.floor(len(items) * ratio)]] = PAD
    return masked


def reorder(items: Ids, ratio: float, rng: np.random.Generator) -> Ids:
    """A window of floor(l ratio) items in random order."""
    size = math.floor(len(items) * ratio)
    start = int(rng.integers(len(items) - size + 1))
    reordered = items.copy()
    reordered[start : start + size] = rng.permutation(items[start : start + size])
    return reordered


OPERATORS: Mapping[str, Operator] = {"crop": crop, "mask": mask, "reorder": reorder}


def two_views(items: Ids, ratios: Mapping[str, float], rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Two different operators, drawn without replacement; a single item stays as it is in both.

    Args:
        items: (l,) ids.
        ratios: of each operator of `OPERATORS`, at least two of them.
        rng: of this access.
    """
    if len(items) < 2:
        return items, items
    first, second = rng.permutation(sorted(ratios))[:2]
    return (
        OPERATORS[first](items, ratios[first], rng),
        OPERATORS[second](items, ratios[second], rng),
    )
