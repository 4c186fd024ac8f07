"""One memory bank for several kinds of rows, such as languages, and which rows count for whom."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from common.encoders.queue import FeatureQueue

Initial = Literal["masked", "random"]


class SharedBank(FeatureQueue):
    """First-in-first-out bank whose rows carry names, with a mask of the rows that have given ones.

    A bank per language is one bank with the label "language", asked with ``valid(language=l)``: rows
    of all languages age together, and a language that is seldom seen keeps few rows. Rows that were
    never written count for nobody, or with ``initial="random"`` for everybody until they are
    overwritten. Enqueue after the loss, as with every queue.

    Source: Wu et al. 2022, "Unsupervised Context Aware Sentence Representation Pretraining",
    arXiv 2206.03281 (language-specific memory bank).

    Args:
        size: rows K, of all kinds together.
        dim: D.
        labels: what every row carries; integers >= 0.
        initial: whether the random directions of the beginning are negatives.
        normalize: rows are stored with unit length.

    Raises:
        ValueError: see `FeatureQueue`.

    Distributed: `enqueue` gathers without gradient, in rank order; ranks may hold different kinds.

    >>> bank = SharedBank(3, 2, ["language"])
    >>> bank.enqueue(torch.eye(2), language=torch.tensor([0, 1]))
    >>> bank.valid(language=1).tolist(), bank.valid().tolist(), bank.unfilled
    ([False, True, False], [True, True, False], 1)
    """

    def __init__(
        self,
        size: int,
        dim: int,
        labels: Sequence[str],
        *,
        initial: Initial = "masked",
        normalize: bool = False,
    ) -> None:
        if not labels:
            raise ValueError("a shared bank needs at least one label")
        super().__init__(size, dim, labels, normalize=normalize)
        self.initial = initial

    @property
    def unfilled(self) -> int:
        """Rows that were never written."""
        return int((self.label(self.labels[0]) < 0).sum())

    def valid(self, **wanted: int) -> Tensor:
        """Rows that count: those whose labels are the given ones, and unwritten ones as configured.

        Args:
            wanted: value of some labels; none of them takes every written row.

        Returns:
            (K,) bool.

        Raises:
            KeyError: the bank has no such label.
        """
        unwritten = self.label(self.labels[0]) < 0
        found = ~unwritten
        for name, value in wanted.items():
            found = found & (self.label(name) == value)
        return found | unwritten if self.initial == "random" else found

    def oldest_first(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows (K, D) and their labels (K,) in the order in which they will be overwritten."""
        order = (int(self.position) + torch.arange(len(self), device=self.features.device)) % len(
            self
        )
        return self.features[order], {name: self.label(name)[order] for name in self.labels}
