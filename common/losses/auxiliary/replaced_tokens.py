"""Replaced-token detection: which tokens of a text did a small masked language model put in?

# N texts, L tokens, M masked places, V vocabulary
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.differentiable import rank_mean_of_sums
from common.losses.auxiliary.tokens import IGNORED


@torch.no_grad()
def sample_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """A token from softmax(logits / temperature) of every place, by the inverse of its distribution.

    The random numbers come from outside, so that a token depends neither on the other places of a
    batch nor on the number of processes.

    Source: Clark et al. 2020, "ELECTRA", section 2 (sampling from the generator), arXiv 2003.10555.

    Args:
        logits: (M, V).
        uniform: (M,) in [0, 1).
        temperature: > 0.

    Returns:
        (M,) int64.

    >>> sample_tokens(torch.zeros(3, 4), torch.tensor([0.1, 0.3, 0.99]))
    tensor([0, 1, 3])
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    below = (logits.to(wide) / temperature).softmax(1).cumsum(1)
    found = torch.searchsorted(below, uniform.to(wide)[:, None], right=True)[:, 0]
    return found.clamp(max=logits.shape[1] - 1)  # sums end a little below 1


def put_in(ids: Tensor, labels: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor]:
    """Texts with sampled tokens at the masked places, and which of their tokens were replaced.

    A sampled token that equals the original one counts as original.

    Source: Clark et al. 2020, section 2, arXiv 2003.10555.

    Args:
        ids: (N, L) original tokens.
        labels: (N, L) the original token at the M masked places, -100 elsewhere.
        sampled: (M,) tokens in the order of these places, row by row.

    Returns:
        (N, L) int64 corrupted ids, (N, L) bool.

    >>> ids, labels = torch.tensor([[5, 6, 7]]), torch.tensor([[-100, 6, 7]])
    >>> put_in(ids, labels, torch.tensor([6, 9]))
    (tensor([[5, 6, 9]]), tensor([[False, False,  True]]))
    """
    corrupted = ids.clone()
    corrupted[labels != IGNORED] = sampled
    return corrupted, corrupted != ids


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
