"""Subsets in which the classes are unequally frequent, for pre-training on imbalanced data."""

import math
from typing import Literal

import torch
from torch import Tensor

from common.config import UserError
from common.data.samplers import sample_rng

Imbalance = Literal["linear", "exponential"]
_STREAM = 24


def kept_images(count: int, label: int, num_classes: int, kind: Imbalance) -> int:
    """Images of one class that an imbalanced subset keeps, rounded down.

        linear: count * (c + 1) / C        exponential: count * exp(c + 1 - C)

    Source: Zheng et al. 2023, released code of the small-scale experiments, arXiv 2105.03746.

    Args:
        count: images of the class.
        label: its index c, in [0, C).
        num_classes: C.
        kind: which rule.

    >>> [kept_images(100, c, 4, "linear") for c in range(4)]
    [25, 50, 75, 100]
    """
    if kind == "linear":
        return count * (label + 1) // num_classes
    return int(count * math.exp(label + 1 - num_classes))


def imbalanced_rows(labels: Tensor, num_classes: int, kind: Imbalance, seed: int) -> Tensor:
    """Rows of an imbalanced subset: class 0 is the rarest, the last class is kept whole.

    Args:
        labels: (N,) int64 in [0, C).
        num_classes: C.
        kind: see `kept_images`.
        seed: draws which images of a class are kept.

    Returns:
        (K,) int64, ascending.

    Raises:
        UserError: images without a label.
    """
    if int(labels.min()) < 0:
        raise UserError("an imbalanced subset needs the label of every training image")
    chosen = []
    for label in range(num_classes):
        members = (labels == label).nonzero()[:, 0]
        order = sample_rng(seed, 0, label, _STREAM).permutation(len(members))
        kept = kept_images(len(members), label, num_classes, kind)
        chosen.append(members[torch.from_numpy(order[:kept])])
    return torch.cat(chosen).sort().values
