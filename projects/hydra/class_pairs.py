"""Labelled images with a partner class for each, for losses on pairs of classes.

Besides the class pairs the set decides in which order images come: plain, with repeated
augmentation, or P classes with K images each in every batch, so that positives exist.
"""

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.image.sources import ImageSource
from common.data.samplers import Key, Rng, sample_rng

PairKind = Literal["arbitrary", "identical", "distinct"]

_VIEW_STREAMS = (0, 4)  # independent random streams of one access
_PARTNER_STREAM, _ORDER_STREAM = 5, 6


class ClassPairBatch(TypedDict):
    """Images with their class and the class that each is to agree with."""

    view_1: Tensor  # (B, 3, H, W) float32
    view_2: NotRequired[Tensor]  # (B, 3, H, W) float32, another view of the same images
    labels: Tensor  # (B,) int64
    partner_labels: Tensor  # (B,) int64
    ids: Tensor  # (B,) int64 sample indices
    skipped: int  # corrupt samples that this batch left out


def partner_labels(labels: Tensor, kind: PairKind, num_classes: int, rng: Rng) -> Tensor:
    """Draw the class that each sample is paired with.

    Source: Wu et al. 2024, arXiv 2410.18200, released code.

    Args:
        labels: (B,) int64 classes in [0, num_classes).
        kind: ``arbitrary``: a permutation of the labels, so that every partner class is present in
            the batch; ``identical``: the own class; ``distinct``: uniform over the other classes,
            which may be absent from the batch.
        num_classes: C, >= 2 for ``distinct``.
        rng: generator of this batch.

    Returns:
        (B,) int64.

    Raises:
        ValueError: unknown kind, or fewer than two classes for ``distinct``.

    >>> y = torch.tensor([0, 1, 1])
    >>> partner_labels(y, "arbitrary", 2, sample_rng(0, 0, 0)).sort().values
    tensor([0, 1, 1])
    """
    if kind == "identical":
        return labels.clone()
    if kind == "arbitrary":
        return labels[torch.from_numpy(rng.permutation(len(labels)))]
    if kind != "distinct":
        raise ValueError(f"kind must be arbitrary, identical or distinct, got {kind!r}")
    if num_classes < 2:
        raise ValueError(f"distinct pairs need two classes, got {num_classes}")
    return (labels + torch.from_numpy(rng.integers(1, num_classes, len(labels)))) % num_classes


def repeated_order(length: int, repeats: int, rng: Rng) -> np.ndarray:
    """A permutation of `length` samples in which each stands `repeats` times in a row.

    One pass shows every sample and costs `repeats` times as much as without repetition.

    Source: Hoffer et al. 2020, "Augment Your Batch", arXiv 1901.09335.

    >>> repeated_order(3, 2, sample_rng(0, 0, 0)).tolist()
    [2, 2, 0, 0, 1, 1]
    """
    return np.repeat(rng.permutation(length), repeats)


def class_balanced_order(labels: Tensor, num_classes: int, per_class: int, rng: Rng) -> np.ndarray:
    """Sample indices in groups of P classes x K samples (a PK sampler).

    A class hands out its samples in a random order and starts again when it has none left.

    Source: Hermans et al. 2017, "In Defense of the Triplet Loss", section 2, arXiv 1703.07737.

    Args:
        labels: (N,) int64.
        num_classes: P, distinct classes of a group.
        per_class: K, samples of each; a class with fewer repeats some.
        rng: generator of this pass.

    Returns:
        (N // (P * K) * P * K,) int64.

    Raises:
        ValueError: fewer than P classes, or fewer than P * K samples.
    """
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    size = num_classes * per_class
    if not 1 <= num_classes <= len(classes) or not 1 <= size <= len(labels):
        raise ValueError(
            f"{num_classes} classes x {per_class} samples do not fit {len(labels)} samples of "
            f"{len(classes)} classes"
        )
    by_class = np.split(np.argsort(labels.numpy(), kind="stable"), np.cumsum(counts)[:-1])
    members = dict(zip(classes, by_class, strict=True))
    waiting: dict[int, list[int]] = {c: [] for c in classes}
    order: list[int] = []
    for _ in range(len(labels) // size):
        for c in rng.choice(classes, num_classes, replace=False):
            while len(waiting[c]) < per_class:
                waiting[c] += rng.permutation(members[c]).tolist()
            order += waiting[c][:per_class]
            waiting[c] = waiting[c][per_class:]
    return np.array(order)


class ClassPairs(Dataset[ClassPairBatch]):
    """Training set of labelled images whose batches carry a drawn partner class per image.

    Args:
        views: one image source per view of a sample, one or two, of equal length.
        labels: (N,) int64.
        num_classes: C.
        seed: the experiment's seed.
        pairs: how partner classes are drawn, see `partner_labels`.
        repeats: augmented copies of a sample in a batch stream (see `repeated_order`); the set is
            as many times as long.
        classes_and_samples: (P, K) of `class_balanced_order`; excludes repeats. Sets with repeats
            or P and K give the order themselves: read them with ``shuffle=False``.

    Raises:
        ValueError: views and labels do not fit, or both orders are asked for.
    """

    def __init__(
        self,
        views: Sequence[ImageSource],
        labels: Tensor,
        num_classes: int,
        *,
        seed: int,
        pairs: PairKind = "arbitrary",
        repeats: int = 1,
        classes_and_samples: tuple[int, int] | None = None,
    ) -> None:
        lengths = [len(view) for view in views]
        if len(views) not in (1, 2) or set(lengths) != {len(labels)}:
            raise ValueError(f"{len(labels)} labels for views of {lengths} images")
        if repeats < 1 or (repeats > 1 and classes_and_samples is not None):
            raise ValueError("give repeats >= 1 or classes_and_samples, not both")
        self.views, self.labels, self.num_classes = list(views), labels, num_classes
        self.seed, self.pairs, self.repeats = seed, pairs, repeats
        self.classes_and_samples = classes_and_samples
        self._order: tuple[int, np.ndarray] | None = None  # (epoch, order)

    @property
    def shuffle(self) -> bool:
        """Whether the reader has to shuffle; False where this set gives the order."""
        return self.repeats == 1 and self.classes_and_samples is None

    def __len__(self) -> int:
        if self.classes_and_samples is None:
            return len(self.labels) * self.repeats
        size = int(np.prod(self.classes_and_samples))
        return len(self.labels) // size * size

    def order(self, epoch: int) -> np.ndarray | None:
        """Sample index at each position of one pass; None if positions are indices."""
        if self.shuffle:
            return None
        if self._order is None or self._order[0] != epoch:
            rng = sample_rng(self.seed, epoch, 0, _ORDER_STREAM)
            if self.classes_and_samples is None:
                order = repeated_order(len(self.labels), self.repeats, rng)
            else:
                order = class_balanced_order(self.labels, *self.classes_and_samples, rng)
            self._order = epoch, order
        return self._order[1]

    def __getitem__(self, keys: Sequence[Key]) -> ClassPairBatch:
        """Batch of the given ``(position, epoch)`` keys, without images that cannot be read."""
        kept, first = self._view(0, keys)
        keys_left = [keys[i] for i in kept]
        indices = self._indices(keys_left)
        labels = self.labels[torch.tensor(indices)]
        position, epoch = keys[0]
        rng = sample_rng(self.seed, epoch, position, _PARTNER_STREAM)
        batch: ClassPairBatch = {
            "view_1": first,
            "labels": labels,
            "partner_labels": partner_labels(labels, self.pairs, self.num_classes, rng),
            "ids": torch.tensor(indices),
            "skipped": len(keys) - len(kept),
        }
        if len(self.views) == 2:
            batch["view_2"] = self._view(1, keys_left)[1]
        return batch

    def _indices(self, keys: Sequence[Key]) -> list[int]:
        orders = [self.order(epoch) for _, epoch in keys]
        return [
            position if order is None else int(order[position])
            for (position, _), order in zip(keys, orders, strict=True)
        ]

    def _view(self, view: int, keys: Sequence[Key]) -> tuple[list[int], Tensor]:
        """Positions that could be read and their images; copies of a sample differ."""
        rngs = [sample_rng(self.seed, e, p, _VIEW_STREAMS[view]) for p, e in keys]
        images, kept = self.views[view].load(self._indices(keys), rngs)
        return kept, images
