"""Contrastive attraction and repulsion as modules: multi-view, with a queue, with momentum keys."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .base import PairLoss, check_fraction
from .functional.cacr import COSTS, WEIGHTINGS, CacrTerms, cacr, cacr_momentum
from .functional.cacr_queue import cacr_queue
from .functional.kernel import mean_loss
from .output import LossOutput

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
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: an option out of its range.

    Distributed: gathers negatives (local if `gather=False`).

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
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
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
        """Loss of a batch; may be negative, no hits.

        Args:
            views: (V, B, D) raw embeddings, V >= 2; row i of all views is of the same sample.

        Raises:
            ValueError: fewer than two views, or a single sample on one process (no negatives).
        """
        terms = self.terms(views)
        per_sample = terms.attraction + terms.repulsion
        return LossOutput(mean_loss(per_sample, self.kernel), per_sample, None)


class CACRQueueLoss(PairLoss):
    """Queries of all views against momentum keys and a queue; see `functional.cacr_queue`.

    Source: Zheng et al. 2023, section 5.3 and released code, arXiv 2105.03746.

    Args:
        tau_positive: > 0, multiplies distances in the attraction weights.
        tau_negative: > 0, multiplies distances in the repulsion weights.
        alpha: factor of the attraction.
        beta: factor of the repulsion.
        in_batch: whether queries of other samples are negatives too.
        reuse_first_view: reproduce an error of the released code, see `functional.cacr_queue`.
        weighting: "full", "without_w1", "without_w2" or "none".
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives of the batch (local if `gather=False`); a queue is never
    gathered.

    >>> z = torch.eye(2)[:1].expand(2, 1, 2)  # views agree; one row in the queue, at distance 2
    >>> CACRQueueLoss(in_batch=False)(z, z, torch.eye(2)[1:]).loss
    tensor(-2.)
    """

    def __init__(
        self,
        tau_positive: float = 1.0,
        tau_negative: float = 2.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        in_batch: bool = True,
        reuse_first_view: bool = False,
        weighting: Weighting = "full",
        *,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
        )
        self.tau_positive, self.tau_negative = tau_positive, tau_negative
        self.alpha, self.beta = alpha, beta
        self.in_batch, self.reuse_first_view = in_batch, reuse_first_view
        self.weighting: Weighting = weighting

    def terms(self, queries: Tensor, keys: Tensor, queue: Tensor) -> CacrTerms:
        """Both costs and the entropies of their weights, per sample; arguments as `forward`."""
        return cacr_queue(
            self.prepare(queries),
            self.prepare(keys),
            queue,
            self.tau_positive,
            self.tau_negative,
            alpha=self.alpha,
            beta=self.beta,
            in_batch=self.in_batch,
            reuse_first_view=self.reuse_first_view,
            weighting=self.weighting,
            **self.kernel,
        )

    def forward(self, queries: Tensor, keys: Tensor, queue: Tensor) -> LossOutput:
        """Loss of a batch; may be negative, no hits.

        Args:
            queries: (V, B, D) raw online embeddings.
            keys: (V, B, D) raw momentum embeddings of the same views.
            queue: (Q, D) unit keys of earlier batches.
        """
        terms = self.terms(queries, keys, queue)
        per_sample = terms.attraction + terms.repulsion
        return LossOutput(mean_loss(per_sample, self.kernel), per_sample, None)


class CACRMomentumLoss(PairLoss):
    """Every momentum key against the predictions from all other views; see `cacr_momentum`.

    With two views and the RBF cost each key has one query, its weight is 1, and the loss is half of
    MoCo v3's. The weights matter with local crops or more views.

    Source: Zheng et al. 2023, section 5.4 and released code, arXiv 2105.03746.

    Args:
        temperature: T > 0.
        cost: of the repulsion, "rbf" or "euclidean".
        reduction: over the samples of this rank; "sum" as in the released Euclidean form.
        weighted: False gives every view the same weight; with the RBF cost that is 2T InfoNCE, the
            mean over all pairs of views: of two, half of MoCo v3's loss.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: an unknown reduction.

    Distributed: gathers negatives (local if `gather=False`).

    >>> z = torch.eye(2)  # one query for each key: 2T times InfoNCE
    >>> CACRMomentumLoss(1.0)([z, z], [z, z]).loss.round(decimals=4)
    tensor(0.6265)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        cost: RepulsionCost = "rbf",
        reduction: Literal["mean", "sum"] = "mean",
        weighted: bool = True,
        *,
        gather: bool = True,
        normalize: bool = True,
        backend: str = "auto",
        memory_budget: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__(
            gather=gather,
            normalize=normalize,
            backend=backend,
            memory_budget=memory_budget,
            precision=precision,
        )
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.temperature, self.cost, self.reduction = temperature, cost, reduction
        self.weighted = weighted

    def forward(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> LossOutput:
        """Mean over keys of their loss, of the samples as `reduction` says.

        Hits are those of the last key.

        Args:
            queries: predictions of every view, (B, D) raw each.
            keys: momentum embeddings of the first views, in the order of `queries`.
        """
        q, outputs = self.prepare(torch.stack(list(queries))), []
        for index, key in enumerate(keys):
            others = torch.cat([q[:index], q[index + 1 :]])
            outputs.append(
                cacr_momentum(
                    others,
                    self.prepare(key),
                    self.temperature,
                    cost=self.cost,
                    weighted=self.weighted,
                    **self.kernel,
                )
            )
        per_sample = torch.stack([out.per_sample for out in outputs]).mean(0)
        if self.reduction == "sum":
            return LossOutput(per_sample.sum(), per_sample, outputs[-1].hits)
        loss = torch.stack([out.loss for out in outputs]).mean()
        return LossOutput(loss, per_sample, outputs[-1].hits)
