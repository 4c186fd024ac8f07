"""What a loss does to the embeddings of a batch: logged while every contestant trains."""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.features.geometry import alignment, effective_rank, uniformity

MECHANISMS = ("alignment", "uniformity", "effective_rank", "hardest_negative")


@torch.no_grad()
def mechanisms(z_1: Tensor, z_2: Tensor) -> dict[str, Tensor]:
    """Values of `MECHANISMS`.

    Args:
        z_1: (B, D) raw embeddings of one view, B >= 2.
        z_2: (B, D) of the other one.

    Returns:
        Squared distance of the two views, log of the mean Gaussian potential, effective dimensions
        and the mean cosine of an anchor's most similar negative.

    >>> {k: float(v) for k, v in mechanisms(torch.eye(2), torch.eye(2)).items()}["hardest_negative"]
    0.0
    """
    first, second = (F.normalize(z.detach().float(), dim=1) for z in (z_1, z_2))
    negatives = (first @ second.T).fill_diagonal_(-torch.inf)
    values = {
        "alignment": alignment(first, second),
        "uniformity": uniformity(first),
        "effective_rank": effective_rank(first),
        "hardest_negative": float(negatives.amax(1).mean()),
    }
    return {name: torch.tensor(value) for name, value in values.items()}
