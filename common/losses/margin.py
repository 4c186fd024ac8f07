"""Hinge losses as modules: triplets, pairs of scores."""

from torch import Tensor, nn

from .functional.margin import DISTANCES, Distance, margin_ranking, triplet
from .output import DistributedKind, LossOutput


class TripletLoss(nn.Module):
    """Hinge on distances to a positive and a negative; see `functional.triplet`.

    Source: Schroff et al. 2015, equation 3, arXiv 1503.03832.

    Args:
        margin: >= 0, in units of the distance.
        distance: "euclidean", "squared" or "cosine".

    Raises:
        ValueError: an option out of its range.

    Distributed: local.

    >>> import torch
    >>> anchor, negative = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    >>> TripletLoss(margin=3.0)(anchor, anchor, negative).loss  # 0 - 1 + 3
    tensor(2.)
    """

    distributed_kind: DistributedKind = "local"

    def __init__(self, margin: float = 0.2, distance: Distance = "squared") -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin must be >= 0, got {margin}")
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {DISTANCES}, got {distance!r}")
        self.margin = margin
        self.distance: Distance = distance

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> LossOutput:
        """Loss of a batch.

        Args:
            anchor: (B, D) float.
            positive: (B, D), row i should be near anchor i.
            negative: (B, D), row i should be far from anchor i.

        Returns:
            Mean over rows; a row that keeps the margin has loss 0. See `functional.triplet`.

        Raises:
            ValueError: shapes that do not fit.
        """
        return triplet(anchor, positive, negative, self.margin, distance=self.distance)


class MarginRankingLoss(nn.Module):
    """Hinge on the difference of two scores; see `functional.margin_ranking`.

    Source: Herbrich et al. 1999, "Support vector learning for ordinal regression".

    Args:
        margin: >= 0, in units of the score.

    Raises:
        ValueError: a negative margin.

    Distributed: local.

    >>> import torch
    >>> MarginRankingLoss()(torch.tensor([0.5]), torch.tensor([0.0])).loss
    tensor(0.5000)
    """

    distributed_kind: DistributedKind = "local"

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"margin must be >= 0, got {margin}")
        self.margin = margin

    def forward(self, positive: Tensor, negative: Tensor) -> LossOutput:
        """Loss of a batch.

        Args:
            positive: (B,) float scores that should be the higher ones.
            negative: (B,) scores that should be the lower ones.

        Raises:
            ValueError: shapes that differ.
        """
        return margin_ranking(positive, negative, self.margin)
