"""The contrastive regulariser R.

# N pairs of all ranks, 2N anchors, D dim
"""

import torch
from torch import Tensor

from common.distributed.differentiable import all_gather_with_grad
from common.distributed.process import default_group
from common.losses.output import full_precision


@full_precision
def regulariser(x_1: Tensor, x_2: Tensor, *, rowwise: bool = True, gather: bool = True) -> Tensor:
    """R of a pair of views: what positives have above, and negatives below, the thresholds.

        o_min = min(min s+, max s-),  o_max = max(min s+, max s-)
        R = mean [s+ - o_min]_+ + mean [o_max - s-]_+

    Source: Qin et al. 2023, contrastive regularisation, arXiv 2304.07763.

    Args:
        x_1: (B, D); products are compared, no cosines.
        x_2: (B, D), row i is the partner of row i.
        rowwise: thresholds of each of the 2N anchors, whose only positive is then min s+ (released
            code); False: of the batch (paper).
        gather: anchors and negatives of all ranks.

    Returns:
        Scalar >= 0, equal on all ranks.

    Raises:
        ValueError: a single pair has no negatives.

    Distributed: gathers negatives; every rank computes the whole.

    >>> regulariser(torch.eye(2), torch.eye(2))  # s+ = 1 above s- = 0: 1 + 1
    tensor(2.)
    """
    group = default_group() if gather else None
    if group is not None:
        x_1, x_2 = all_gather_with_grad(x_1, group), all_gather_with_grad(x_2, group)
    count = len(x_1)
    if count < 2:
        raise ValueError("the regulariser needs two pairs: one has no negatives")
    anchors = torch.cat([x_1, x_2])
    products = anchors @ anchors.T
    rows = torch.arange(2 * count, device=products.device)
    positive = products[rows, (rows + count) % (2 * count)]  # (2N,)
    same_user = rows[:, None] % count == rows % count  # the anchor itself and its partner
    low, high = positive, products.masked_fill(same_user, -torch.inf).amax(1)
    if not rowwise:
        low, high = positive.min(), high.max()
    o_min, o_max = torch.minimum(low, high), torch.maximum(low, high)
    above = (positive - o_min).relu().mean()
    missing = (o_max[..., None] - products).relu().masked_fill(same_user, 0)
    below = missing.sum() / (2 * count * (2 * count - 2))
    return above + below  # R
