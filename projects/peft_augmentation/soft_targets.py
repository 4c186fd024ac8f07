"""Cross-entropy with soft targets, and mixup, which makes them.

# R rows, C classes
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.losses.output import at_least_float32, full_precision


@full_precision
def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_c q_c log softmax(logits)_c, of every row.

    Source: Hinton et al. 2015, section 2, arXiv 1503.02531 (the cross-entropy with soft targets).

    Args:
        logits: (R, C).
        targets: (R, C) >= 0, rows that sum to 1; no gradient flows into them.

    Returns:
        (R,).

    Raises:
        ValueError: shapes that differ.

    Distributed: local.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.3, 0.7]])).exp()
    tensor([2.])
    """
    if logits.ndim != 2 or logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} differ")
    targets = at_least_float32(targets.detach())
    return -(targets * F.log_softmax(at_least_float32(logits), 1)).sum(1)


def mixture(
    count: int, concentration: float, each: bool, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Shares and partners of mixup, from the global random state.

    Source: Zhang et al. 2018, "mixup", equation 2 and section 2, arXiv 1710.09412.

    Args:
        count: R rows.
        concentration: a > 0 of Beta(a, a).
        each: a share for every row; else one for all.
        device: of the results.

    Returns:
        Shares (R,) in [0, 1] of the row itself, and the place (R,) of its partner.
    """
    shape = torch.full((count if each else 1,), concentration)
    share = torch.distributions.Beta(shape, shape).sample().expand(count)
    return share.to(device), torch.randperm(count).to(device)


def mixer(share: Tensor, partner: Tensor) -> Callable[[Tensor], Tensor]:
    """Mixtures: lambda x_i + (1 - lambda) x_j, of rows of any shape.

    Source: Zhang et al. 2018, "mixup", section 2, arXiv 1710.09412.

    >>> mixer(torch.tensor([0.25, 1.0]), torch.tensor([1, 0]))(torch.tensor([[4.0], [8.0]]))
    tensor([[7.],
            [8.]])
    """

    def mix(x: Tensor) -> Tensor:
        weight = share.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return weight * x + (1 - weight) * x[partner]

    return mix
