"""Modules for two views of every sample: NT-Xent, DCL and DCLW, debiased, target-anchored."""

from torch import Tensor

from .base import PairLoss, check_fraction
from .functional import equations
from .functional.kernel import as_scale
from .functional.two_view import (
    dcl_of_anchors,
    debiased,
    nt_xent_of_anchors,
    stacked,
    target_anchored,
    von_mises_fisher_weight,
)
from .output import LossOutput


class NTXentLoss(PairLoss):
    """NT-Xent (SimCLR) over both views of all ranks; see `functional.nt_xent`.

    Source: Chen et al. 2020, equation 1, arXiv 2002.05709.

    Args:
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> view = torch.eye(2)
    >>> NTXentLoss()(view, view, scale=torch.tensor(4.0).log()).loss.exp()  # (4 + 1 + 1) / 4
    tensor(1.5000)
    """

    def forward(self, view_1: Tensor, view_2: Tensor, scale: Tensor | float) -> LossOutput:
        """Loss of a batch.

        Args:
            view_1: (B, D) raw embeddings.
            view_2: (B, D), row i is the other view of sample i.
            scale: multiplier of the cosines; 10 is temperature 0.1.
        """
        anchors = self.prepare(stacked(view_1, view_2))
        if self.runs_plain(anchors, anchors, "self"):
            return equations.nt_xent(anchors, as_scale(scale))
        return nt_xent_of_anchors(anchors, scale, **self.kernel)


class DCLLoss(PairLoss):
    """Decoupled contrastive loss, with DCLW weights if `weighted`; see `functional.dcl`.

    Source: Yeh et al. 2022, equations 6 and 7, arXiv 2110.06848.

    Args:
        weighted: weight the positive term by `von_mises_fisher_weight` (DCLW).
        sigma: > 0, concentration of the weights.
        detach_weight: no gradient through the weights (the reference code lets it flow).
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: `sigma` is not positive, or `detach_weight` without `weighted`.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> view = torch.eye(2)
    >>> DCLLoss()(view, view, scale=4.0).loss.round(decimals=4)  # 2 * (log 2 - 4)
    tensor(-6.6137)
    """

    def __init__(
        self,
        weighted: bool = False,
        sigma: float = 0.5,
        detach_weight: bool = False,
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
        if sigma <= 0:
            raise ValueError(f"sigma must be > 0, got {sigma}")
        if detach_weight and not weighted:
            raise ValueError("detach_weight has no effect without weighted=True")
        self.weighted = weighted
        self.sigma = sigma
        self.detach_weight = detach_weight

    def forward(self, view_1: Tensor, view_2: Tensor, scale: Tensor | float) -> LossOutput:
        """Loss of a batch.

        Args:
            view_1: (B, D) raw embeddings.
            view_2: (B, D), row i is the other view of sample i.
            scale: multiplier of the cosines; 10 is temperature 0.1.
        """
        anchors = self.prepare(stacked(view_1, view_2))
        weight = None
        if self.weighted:
            cosine = (anchors[: len(view_1)] * anchors[len(view_1) :]).sum(-1)
            weight = von_mises_fisher_weight(cosine, self.sigma, **self.kernel)
            weight = weight.detach() if self.detach_weight else weight
        if view_1.shape[0] > 1 and self.runs_plain(anchors, anchors, "self"):
            return equations.dcl(anchors, as_scale(scale), weight)
        return dcl_of_anchors(anchors, scale, weight=weight, **self.kernel)


class DebiasedLoss(PairLoss):
    """NT-Xent corrected for false negatives and weighted by hardness; see `functional.debiased`.

    Source: Chuang et al. 2020, equation 8, arXiv 2007.00224; Robinson et al. 2021, equation 4,
    arXiv 2010.04592.

    Args:
        tau_plus: in [0, 1), probability that a negative is a positive.
        beta: >= 0, concentration on hard negatives.
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Raises:
        ValueError: an option out of its range.

    Distributed: gathers negatives (local if `gather=False`).

    >>> import torch
    >>> view, scale = torch.eye(2), torch.tensor(4.0).log()
    >>> DebiasedLoss(tau_plus=0.0)(view, view, scale).loss.exp()  # NT-Xent
    tensor(1.5000)
    """

    def __init__(
        self,
        tau_plus: float = 0.1,
        beta: float = 0.0,
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
        check_fraction("tau_plus", tau_plus)
        if beta < 0:
            raise ValueError(f"beta must be >= 0, got {beta}")
        self.tau_plus = tau_plus
        self.beta = beta

    def forward(self, view_1: Tensor, view_2: Tensor, scale: Tensor | float) -> LossOutput:
        """Loss of a batch.

        Args:
            view_1: (B, D) raw embeddings.
            view_2: (B, D), row i is the other view of sample i.
            scale: multiplier of the cosines; 2 is temperature 0.5.
        """
        return debiased(
            self.prepare(view_1),
            self.prepare(view_2),
            scale,
            tau_plus=self.tau_plus,
            beta=self.beta,
            **self.kernel,
        )


class TargetAnchoredLoss(PairLoss):
    """NT-Xent against fixed targets: gradient flows through the queries only.

    See `functional.target_anchored`.

    Source: Byun et al. 2025, arXiv 2406.09188.

    Args:
        gather: see `PairLoss`, also for `normalize`, `backend`, `memory_budget` and `precision`.

    Distributed: gathers negatives (local if `gather=False`, as in the released code).

    >>> import torch
    >>> pair = torch.eye(2)
    >>> TargetAnchoredLoss()(pair, pair, scale=torch.tensor(4.0).log()).loss.exp()
    tensor(1.5000)
    """

    def forward(self, target: Tensor, query: Tensor, scale: Tensor | float) -> LossOutput:
        """Loss of a batch.

        Args:
            target: (B, D) raw embeddings of the frozen side; a refined batch concatenates targets
                and references.
            query: (B, D), row i belongs to target i.
            scale: multiplier of the cosines; 1/0.07 in the paper.
        """
        return target_anchored(self.prepare(target), self.prepare(query), scale, **self.kernel)
