"""One memory bank for several kinds of rows, such as languages, and which rows count for whom."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.collectives import all_gather_no_grad
from common.encoders.queue import FeatureQueue

Initial = Literal["masked", "random"]


class SharedBank(FeatureQueue):
    """First-in-first-out bank whose rows carry names, with a mask of the rows that have given ones.

    A bank per language is one bank with the label "language", asked with ``valid(language=l)``.
    With
    one ring, rows of all languages age together, and a language that is seldom seen keeps few rows
    or none; with a ring for each language, none of them pushes out the rows of another. Rows that
    were never written count for nobody, or with ``initial="random"`` for everybody (with rings: for
    the kind of their ring) until they are overwritten. Enqueue after the loss, as with every queue.

    Source: Wu et al. 2022, "Unsupervised Context Aware Sentence Representation Pretraining",
    arXiv 2206.03281 (language-specific memory bank).

    Args:
        size: rows of all kinds together; a ring has ``size // rings`` of them, a rest is left out.
        dim: D.
        labels: what every row carries; integers >= 0.
        initial: whether the random directions of the beginning are negatives.
        normalize: rows are stored with unit length.
        rings: R, for as many kinds; the first label of a row, in [0, R), names its ring. 1: one for
            all, whose first label may be any.

    Attributes:
        position: buffer, the row of each ring that is overwritten next, (R,) int64; 0-dim with one.

    Raises:
        ValueError: no labels, fewer rows than rings, or see `FeatureQueue`; on `enqueue`, a first
            label without a ring.

    Distributed: `enqueue` gathers without gradient, in rank order; ranks may hold different kinds.

    >>> bank = SharedBank(3, 2, ["language"])
    >>> bank.enqueue(torch.eye(2), language=torch.tensor([0, 1]))
    >>> bank.valid(language=1).tolist(), bank.valid().tolist(), bank.unfilled
    ([False, True, False], [True, True, False], 1)
    >>> bank = SharedBank(4, 2, ["language"], rings=2)
    >>> for _ in range(3):
    ...     bank.enqueue(torch.eye(2), language=torch.tensor([0, 0]))
    >>> bank.label("language").tolist()
    [0, 0, -1, -1]
    """

    def __init__(
        self,
        size: int,
        dim: int,
        labels: Sequence[str],
        *,
        initial: Initial = "masked",
        normalize: bool = False,
        rings: int = 1,
    ) -> None:
        if not labels:
            raise ValueError("a shared bank needs at least one label")
        if not 1 <= rings <= size:
            raise ValueError(f"a shared bank needs 1 <= rings <= size, got {rings} of {size} rows")
        super().__init__(size // rings * rings, dim, labels, normalize=normalize)
        self.initial, self.rings = initial, rings
        if rings > 1:
            self.register_buffer("position", torch.zeros(rings, dtype=torch.long))

    @property
    def ring_size(self) -> int:
        """Rows of a ring."""
        return len(self) // self.rings

    @property
    def unfilled(self) -> int:
        """Rows that were never written."""
        return int((self.label(self.labels[0]) < 0).sum())

    def valid(self, **labels: int) -> Tensor:
        """Rows that count: those with these labels, and unwritten ones as configured.

        Args:
            **labels: value of some labels; none of them takes every written row.

        Returns:
            (K,) bool.

        Raises:
            KeyError: the bank has no such label.
        """
        unwritten = self.label(self.labels[0]) < 0
        valid = ~unwritten
        for name, value in labels.items():
            valid = valid & (self.label(name) == value)
        if self.initial == "masked":
            return valid
        if self.rings > 1 and self.labels[0] in labels:
            ring = torch.arange(len(self), device=valid.device) // self.ring_size
            unwritten = unwritten & (ring == labels[self.labels[0]])
        return valid | unwritten

    def oldest_first(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows (K, D) and their labels (K,), ring after ring in the order of their overwriting."""
        device = self.features.device
        first = torch.arange(self.rings, device=device)[:, None] * self.ring_size
        steps = torch.arange(self.ring_size, device=device)
        order = (first + (self.position.view(-1, 1) + steps) % self.ring_size).flatten()
        return self.features[order], {name: self.label(name)[order] for name in self.labels}

    @torch.no_grad()
    def _write(self, features: Tensor, labels: Mapping[str, Tensor]) -> int:
        """See `FeatureQueue`; every row goes to the ring that its first label names."""
        if self.rings == 1:
            return super()._write(features, labels)
        shapes = {name: tuple(value.shape) for name, value in labels.items()}
        expected = {name: (len(features),) for name in self.labels}
        if shapes != expected or features.shape[1:] != self.features.shape[1:]:
            raise ValueError(
                f"expected (B, {self.features.shape[1]}) features and labels {expected}, "
                f"got {tuple(features.shape)} and {shapes}"
            )
        rows = all_gather_no_grad(features).to(self.features.dtype)
        rows = F.normalize(rows, dim=1) if self.normalize else rows
        every = {name: all_gather_no_grad(value.long()) for name, value in labels.items()}
        kinds, size = every[self.labels[0]], self.ring_size
        for ring in sorted(set(kinds.tolist())):
            if not 0 <= ring < self.rings:
                raise ValueError(f"{self.labels[0]} {ring} has none of the {self.rings} rings")
            mine = (kinds == ring).nonzero()[:, 0]
            kept = mine[-size:]
            start = self.position[ring] + len(mine) - len(kept)
            index = ring * size + (start + torch.arange(len(kept), device=rows.device)) % size
            self.features[index] = rows[kept]
            for name, value in every.items():
                self.label(name)[index] = value[kept]
            self.position[ring] = (self.position[ring] + len(mine)) % size
        return len(rows)
