"""The losses of pre-training and of fine-tuning with two dropout copies.

# B examples, K views, D dim of a sub-space, C classes
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.data.text.dialogs.trees import VIEWS, Frame, view_scores
from common.distributed.process import default_group
from common.losses.functional.kernel import KernelOptions
from common.losses.functional.soft import symmetric_kl
from common.losses.weighted.overlap import Given, Weights, overlap_of_all_ranks, weighted_two_view

BASE_TAU = 0.07


def soft_contrast(
    features: Tensor, weights: Tensor | Weights | None, tau: float = 0.07, base_tau: float | None = BASE_TAU,
    kernel: KernelOptions | None = None,
) -> Tensor:  # fmt: skip
    """Supervised contrast of two dropout copies with a weight for every pair of examples.

        L = -1/2B sum_i (sum_{j != i} w_ij log [exp(z_i z_j / tau) / sum_{l != i} exp(z_i z_l / tau)])
                / sum_{j != i} w_ij,   times tau / base_tau

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
    one, two = features.unbind(1)
    if weights is None:
        weights = features.new_zeros(len(features), len(features))
    if isinstance(weights, Tensor):
        if weights.shape != (len(features),) * 2:
            raise ValueError(f"weights {tuple(weights.shape)} for {len(features)} examples")
        weights = Given(weights.detach().clone().fill_diagonal_(1.0))
    loss = weighted_two_view(one, two, 1 / tau, weights, **(kernel or {})).loss
    return loss if base_tau is None else loss * (tau / base_tau)


def tree_score_matrix(frames: Sequence[Frame], views: Sequence[str] = VIEWS) -> Tensor:
    """(K, B, B) scores of the trees of a batch under K views; symmetric, diagonal 1 of any tree.

    The module makes the same weights in tiles; this is the form to read and to compare with.

    Source: He et al. 2022, section 3.2, arXiv 2209.06638; released `scores.py`.

    Args:
        frames: B trees.
        views: of the ten.
    """
    places = [VIEWS.index(view) for view in views]
    found = torch.tensor([[view_scores(a, b) for b in frames] for a in frames])  # (B, B, 10)
    found = found[:, :, places].permute(2, 0, 1).contiguous()
    found.diagonal(dim1=1, dim2=2).fill_(1.0)
    return found


def multi_view_contrast(
    vectors: Tensor, sets: Sequence[tuple[Tensor, Tensor]], tau: float = 0.07,
    base_tau: float | None = BASE_TAU, *, gather: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """Mean over views of `soft_contrast` in the sub-space of each, weighted by the trees of that view.

    Source: He et al. 2022, section 3.3, arXiv 2209.06638 ("mean over the triggered views").

    Args:
        vectors: (2B, K, D), not normalised; rows [B, 2B) are the second copies.
        sets: K pairs of elements (T,) int64 and sizes (B,) int64, see `SetOverlap`; empty sets leave
            the other copy as the only positive (the self-supervised loss).
        tau: > 0.
        base_tau: see `soft_contrast`.
        gather: contrast with the examples of all ranks.

    Returns:
        "loss", and that of each view by its place.
    """
    z = F.normalize(vectors.float() if vectors.dtype != torch.float64 else vectors, dim=-1)
    kernel: KernelOptions = {"group": default_group()} if gather else {}
    found = []
    for k, (ids, counts) in enumerate(sets):
        pair = torch.stack(z[:, k].chunk(2), 1)
        found.append(soft_contrast(pair, overlap_of_all_ranks(ids, counts, **kernel), tau, base_tau, kernel))  # fmt: skip
    return {"loss": torch.stack(found).mean(), **{str(k): loss for k, loss in enumerate(found)}}


def r_drop(logits: Tensor, labels: Tensor, kl_weight: float = 5.0) -> dict[str, Tensor]:
    """CE of both copies, mean over 2B rows, + kl_weight * symmetric KL between the copies.

    Source: Liang et al. 2021, "R-Drop", arXiv 2106.14448; He et al. 2022, released `IntentUnifiedTransformer`.

    Args:
        logits: (2B, C); rows [B, 2B) are the second copies.
        labels: (B,) int64.
        kl_weight: >= 0.

    Returns:
        "loss" and its terms.
    """
    first, second = logits.chunk(2)
    ce = F.cross_entropy(logits.float(), labels.repeat(2))
    kl = symmetric_kl(first, second)
    return {"loss": ce + kl_weight * kl, "ce": ce, "kl": kl}
