"""Replaced-token detection: which tokens of a text did a small masked language model put in?

# N texts, L tokens
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.differentiable import rank_mean_of_sums


def replaced_token_loss(logits: Tensor, replaced: Tensor, counted: Tensor) -> Tensor:
    """Binary cross-entropy of "replaced", mean over the tokens of the whole batch that count.

    Source: Clark et al. 2020, section 2 (discriminator), arXiv 2003.10555.

    Args:
        logits: (N, L), positive where the token is taken for a replaced one.
        replaced: (N, L) bool.
        counted: (N, L) bool, False at padding and special tokens.

    Returns:
        Scalar, in float32 at least.

    Distributed: reduces statistics (the number of tokens).

    >>> ones = torch.ones(1, 2, dtype=torch.bool)
    >>> f"{float(replaced_token_loss(torch.zeros(1, 2), ones, ones)):.4f}"  # log 2
    '0.6931'
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    chosen = logits[counted].to(wide)
    total = F.binary_cross_entropy_with_logits(chosen, replaced[counted].to(wide), reduction="sum")
    return rank_mean_of_sums(total, counted.sum())
