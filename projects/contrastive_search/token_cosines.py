"""Cosines between the tokens of a text."""

import torch
from torch import Tensor
from torch.nn import functional as F


class TokenCosines:
    """Mean cosine of the tokens of a text with one another, over a corpus; 1 minus it is isotropy.

        isotropy = 1 - sum_x sum_{i != j} cos(h_i, h_j) / sum_x |x| (|x| - 1)

    A ratio of sums over all texts: long ones weigh more than in a mean of means.

    Source: Su & Collier 2023, section 4, arXiv 2210.14140; Ethayarajh 2019, arXiv 1909.00512.

    >>> cosines = TokenCosines()
    >>> cosines.add(torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [3.0, 0.0]]]))
    >>> cosines.self_similarity, cosines.isotropy
    (0.5, 0.5)
    """

    def __init__(self) -> None:
        self.total, self.pairs = 0.0, 0

    def add(self, states: Tensor, mask: Tensor | None = None) -> None:
        """Add texts.

        Args:
            states: (B, L, D) last hidden states.
            mask: (B, L), 0 at padding; None: there is none.
        """
        unit = F.normalize(states.double(), dim=-1)
        if mask is not None:
            unit = unit * mask.to(unit)[..., None]
        lengths = (
            torch.full(states.shape[:1], states.shape[1]) if mask is None else mask.sum(1)
        ).long()
        # all ordered pairs at once: |sum_i u_i|^2 holds the diagonal too
        self.total += float(unit.sum(1).square().sum() - unit.square().sum())
        self.pairs += int((lengths * (lengths - 1)).sum())

    @property
    def self_similarity(self) -> float:
        """Mean cosine of all ordered pairs of different places.

        Raises:
            ValueError: no text had two tokens.
        """
        if not self.pairs:
            raise ValueError("no text with two tokens was added")
        return self.total / self.pairs

    @property
    def isotropy(self) -> float:
        """1 - `self_similarity`."""
        return 1 - self.self_similarity
