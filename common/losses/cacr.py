"""Contrastive attraction and repulsion as a module."""

from typing import Literal

from torch import Tensor

from common.losses.base import PairLoss, check_fraction
from common.losses.functional.cacr import COSTS, WEIGHTINGS, CacrTerms, cacr
from common.losses.functional.kernel import mean_loss
from common.losses.output import LossOutput

Weighting = Literal["full", "without_w1", "without_w2", "none"]
RepulsionCost = Literal["euclidean", "rbf"]


class CACRLoss(PairLoss):
    """Attraction of distant positives and repulsion of near negatives; see `functional.cacr`.

    Source: Zheng et al. 2023, equations 5 to 8, arXiv 2105.03746.

    Args:
        tau_positive: > 0, multiplies distances in the attraction weights.
        tau_negative: > 0, multiplies distances in the repulsion weights.
        alpha: factor of the attraction.
        beta: factor of the repulsion.
        weighting: "full", "without_w1", "without_w2" or "none".
        detach_weights: no gradient through the weights.
        tau_plus: in [0, 1), class prior of the debiased repulsion; Euclidean cost only.
        cost: of the repulsion, "euclidean" or "rbf".
        rbf_t: > 0, one over the squared bandwidth of the RBF cost.
        gather: see `PairLoss`; so are `normalize`, `backend` and `memory_budget`.

    Raises:
        ValueError: an option out of its range.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> views = torch.eye(2).expand(2, 2, 2)  # attraction 0, repulsion -2
    >>> CACRLoss()(views).loss
    tensor(-2.)
    """

    def __init__(
        self,
        tau_positive: float = 1.0,
        tau_negative: float = 0.9,
        alpha: float = 1.0,
        beta: float = 1.0,
        weighting: Weighting = "full",
        detach_weights: bool = False,
        tau_plus: float = 0.0,
        cost: RepulsionCost = "euclidean",
        rbf_t: float = 2.0,
        *,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(
            gather=gather, normalize=normalize, backend=backend, memory_budget=memory_budget
        )
        if tau_positive <= 0 or tau_negative <= 0:
            raise ValueError(f"both tau must be > 0, got {tau_positive} and {tau_negative}")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
        if cost not in COSTS or rbf_t <= 0:
            raise ValueError(f"cost must be one of {COSTS} and rbf_t > 0, got {cost!r}, {rbf_t}")
        if cost == "rbf" and tau_plus:
            raise ValueError("tau_plus > 0 needs cost='euclidean'")
        check_fraction("tau_plus", tau_plus)
        self.tau_positive = tau_positive
        self.tau_negative = tau_negative
        self.alpha = alpha
        self.beta = beta
        self.weighting: Weighting = weighting
        self.detach_weights = detach_weights
        self.tau_plus = tau_plus
        self.cost: RepulsionCost = cost
        self.rbf_t = rbf_t

    def terms(self, views: Tensor) -> CacrTerms:
        """Both costs and the entropies of their weights, per sample, for logging and ablation.

        Args:
            views: (V, B, D) raw embeddings, V >= 2.
        """
        return cacr(
            self.prepare(views),
            self.tau_positive,
            self.tau_negative,
            alpha=self.alpha,
            beta=self.beta,
            weighting=self.weighting,
            detach_weights=self.detach_weights,
            tau_plus=self.tau_plus,
            cost=self.cost,
            rbf_t=self.rbf_t,
            **self.kernel,
        )

    def forward(self, views: Tensor) -> LossOutput:
        """Loss of a batch of (V, B, D) raw embeddings; may be negative, no hits."""
        terms = self.terms(views)
        per_sample = terms.attraction + terms.repulsion
        return LossOutput(mean_loss(per_sample, self.kernel), per_sample, None)
