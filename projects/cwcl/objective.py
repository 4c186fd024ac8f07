"""CWCL's objective, its weights, and what stands in their place in the baselines and ablations.

# N rows of the frozen modality, M samples of the trained one
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from common.losses.base import PairLoss, check_fraction
from common.losses.functional.info_nce import info_nce
from common.losses.functional.multi_positive import sup_con
from common.losses.output import LossOutput, embeddings
from common.losses.soft import CWCLLoss

WeightMode = Literal["cosine", "bidirectional", "binary", "classes", "smoothing"]


@torch.no_grad()
def similarity_weights(features: Tensor) -> Tensor:
    """How much each pair of a batch counts as a match, from the frozen modality alone.

        w_ij = <p_i, p_j> / 2 + 1/2

    Source: Srinivasa et al. 2023, arXiv 2309.14580.

    Args:
        features: (N, R) of the frozen modality, of any length.

    Returns:
        (N, N) in [0, 1], 1 on the diagonal, without gradient.
    """
    p = embeddings(features, normalize=True)
    weights = (0.5 * p @ p.T + 0.5).clamp(0, 1)  # Eq. of the weights
    return weights.fill_diagonal_(1.0)


def soft_targets(weights: Tensor) -> Tensor:
    """Weights (N, M) >= 0 as distributions: every row sums to 1."""
    return weights / weights.sum(1, keepdim=True)


class Objective(PairLoss):
    """Weighted contrast frozen -> trained, plain contrast trained -> frozen, summed.

        L = factor * [CWCL_w(p -> q) + InfoNCE(q -> p)]

    ======================  ==========================================================
    `weight_mode`           weights of p -> q
    ======================  ==========================================================
    cosine                  w_ij of `similarity_weights` (the paper)
    bidirectional           the same, and also in q -> p
    binary                  1 for the own partner only: CLIP, LiT
    classes                 1 for samples of the same class or the same text
    smoothing               the own partner, and equal weights for all others
    ======================  ==========================================================

    Source: Srinivasa et al. 2023, equations 3 and 4, arXiv 2309.14580.

    Args:
        weight_mode: see the table.
        factor: of the sum; 0.5 gives CLIP's mean of both directions.
        smoothing: share of the target that is spread evenly, with "smoothing".
        backend: see `PairLoss`; so is `gather`.

    Raises:
        ValueError: unknown mode, or a share outside [0, 1).

    Distributed: gathers negatives (local if `gather=False`).

    >>> z = torch.eye(2)
    >>> Objective("binary")(z, z, scale=torch.tensor(3.0).log()).loss.exp().round(decimals=4)
    tensor(1.7778)
    """

    def __init__(
        self,
        weight_mode: WeightMode = "cosine",
        factor: float = 1.0,
        smoothing: float = 0.0,
        *,
        gather: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(gather=gather, backend=backend)
        if weight_mode not in get_args(WeightMode):
            raise ValueError(f"weight_mode must be one of {get_args(WeightMode)}: {weight_mode!r}")
        check_fraction("smoothing", smoothing)
        self.weight_mode, self.factor = weight_mode, factor
        self.smoothing = smoothing if weight_mode == "smoothing" else 0.0
        both = weight_mode == "bidirectional"
        self.cwcl = CWCLLoss(both, factor, gather=gather, backend=backend)

    def forward(
        self,
        frozen: Tensor,
        trained: Tensor,
        scale: Tensor | float,
        features: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LossOutput:
        """Loss of a batch of pairs.

        Args:
            frozen: (N, D) embeddings p of the frozen modality, of any length.
            trained: (N, D) embeddings q, row i belongs to frozen row i.
            scale: multiplier of the cosines, 1 / temperature.
            features: (N, R) frozen features for the weights; None takes `frozen`.
            labels: (N,) int64, with "classes".

        Returns:
            Mean over rows; hits of q -> p.

        Raises:
            ValueError: "classes" without labels, or shapes that do not fit.
        """
        if self.weight_mode in ("cosine", "bidirectional"):
            return self.cwcl(frozen, trained, scale, features)  # type: ignore[no-any-return]
        p, q = self.prepare(frozen), self.prepare(trained)
        plain = info_nce(q, p, scale, **self.kernel)  # one-hot: q has no structure yet
        if self.weight_mode == "classes":
            if labels is None:
                raise ValueError("weight_mode 'classes' needs labels")
            weighted = sup_con(p, q, labels, labels, scale, **self.kernel)  # Eq. 3, w_ij in {0, 1}
        else:
            weighted = info_nce(p, q, scale, label_smoothing=self.smoothing, **self.kernel)
        return LossOutput(
            self.factor * (weighted.loss + plain.loss),  # Eq. 4
            self.factor * (weighted.per_sample + plain.per_sample),
            plain.hits,
        )
