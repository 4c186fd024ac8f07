"""The losses of pre-training with two dropout copies.

# B examples, K views, D dim of a sub-space
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.process import default_group
from common.losses.functional.kernel import KernelOptions
from common.losses.weighted.overlap import (
    Given,
    MeanOverlap,
    Weights,
    overlap_of_all_ranks,
    weighted_two_view,
)

BASE_TAU = 0.07


def soft_contrast(
    features: Tensor,
    weights: Tensor | Weights | None,
    tau: float = 0.07,
    base_tau: float | None = BASE_TAU,
    kernel: KernelOptions | None = None,
) -> Tensor:
    """Supervised contrast of two dropout copies with a weight for every pair of examples.

        L = -1/2B sum_i (sum_{j != i} w_ij log p_ij) / sum_{j != i} w_ij,   times tau / base_tau
        p_ij = exp(z_i z_j / tau) / sum_{l != i} exp(z_i z_l / tau)

    Source: He et al. 2022, "SPACE-2", section 3.3, arXiv 2209.06638; released `SupConLoss`.

    Args:
        features: (B, 2, D), L2-normalised on D; the two copies of each example.
        weights: (B, B) in [0, 1], its diagonal counts as 1; or made in tiles; None: the identity.
        tau: > 0.
        base_tau: > 0 or None (no factor); 1 in effect at the default tau.
        kernel: see `KernelOptions`.

    Returns:
        Scalar.

    Raises:
        ValueError: features or weights of another shape.

    Distributed: gathers negatives if the kernel's options have a `group`, else local.
    """
    if features.ndim != 3 or features.shape[1] != 2:
        raise ValueError(f"features must be (B, 2, D), got {tuple(features.shape)}")
    first, second = features.unbind(1)
    if weights is None:
        weights = features.new_zeros(len(features), len(features))
    if isinstance(weights, Tensor):
        if weights.shape != (len(features),) * 2:
            raise ValueError(f"weights {tuple(weights.shape)} for {len(features)} examples")
        weights = Given(weights.detach().clone().fill_diagonal_(1.0))
    loss = weighted_two_view(first, second, 1 / tau, weights, **(kernel or {})).loss
    return loss if base_tau is None else loss * (tau / base_tau)


def multi_view_contrast(
    vectors: Tensor,
    sets: Sequence[tuple[Tensor, Tensor]],
    tau: float = 0.07,
    base_tau: float | None = BASE_TAU,
    *,
    gather: bool = False,
    combined: bool = False,
) -> dict[str, Tensor]:
    """Mean over views of `soft_contrast` in each sub-space, weighted by that view's trees.

    Source: He et al. 2022, section 3.3, arXiv 2209.06638 ("mean over the triggered views").

    Args:
        vectors: (2B, K, D), not normalised; rows [B, 2B) are the second copies.
        sets: K pairs of elements (T,) int64 and sizes (B,) int64, see `SetOverlap`; empty sets
            leave the other copy as the only positive (the self-supervised loss).
        tau: > 0.
        base_tau: see `soft_contrast`.
        gather: contrast with the examples of all ranks.
        combined: one contrast of vectors (2B, 1, D), weighted by the mean over the K scores of a
            pair.

    Returns:
        "loss", and that of each view by its place.
    """
    z = F.normalize(vectors.float() if vectors.dtype != torch.float64 else vectors, dim=-1)
    kernel: KernelOptions = {"group": default_group()} if gather else {}
    weights: list[Any] = [overlap_of_all_ranks(ids, counts, **kernel) for ids, counts in sets]
    if combined:
        weights = [MeanOverlap(weights)]
    losses = []
    for k, view_weights in enumerate(weights):
        pair = torch.stack(z[:, k].chunk(2), 1)
        losses.append(soft_contrast(pair, view_weights, tau, base_tau, kernel))
    return {"loss": torch.stack(losses).mean(), **{str(k): loss for k, loss in enumerate(losses)}}
