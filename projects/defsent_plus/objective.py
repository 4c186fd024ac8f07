"""The softmax over all entries of a dictionary.

Legend: B definitions, D dimension, n entries.
"""

from typing import Literal

from torch import Tensor

from common.losses.auxiliary.prototypes import prototype_softmax
from common.losses.output import LossOutput

Backend = Literal["auto", "dense", "blocked", "triton"]


def definition_loss(
    hidden: Tensor, entries: Tensor, labels: Tensor, backend: Backend = "auto"
) -> LossOutput:
    """Cross entropy of a definition's entry among all entries, without bias and temperature.

        L = -1/B sum_b log [exp(<h_b, E_y(b)>) / sum_e exp(<h_b, E_e>)]

    Source: arXiv 2405.16153 and the official code; DefSent with E and bias of the word-prediction
    layer (Tsukagoshi et al. 2021, section 3, arXiv 2105.04339).

    Args:
        hidden: (B, D) h, behind the pooler, not normalised.
        entries: (n, D) E, frozen: no gradient reaches it.
        labels: (B,) int64, row of `entries`.
        backend: of the kernel; but for "dense" the (B, n) logits are never stored.

    Returns:
        Mean over rows; hits: the entry of the definition has the largest logit.

    Raises:
        ValueError: shapes that do not fit.

    Distributed: local, and exact on several ranks: every rank holds all entries.

    >>> import torch
    >>> e = torch.eye(2) * torch.tensor(3.0).log()
    >>> definition_loss(torch.eye(2), e, torch.tensor([0, 1])).loss.exp()  # (3 + 1) / 3
    tensor(1.3333)
    """
    # the only loss of a round; E carries no gradient
    return prototype_softmax(
        hidden, entries.detach(), labels, 1.0, unit_norm=False, backend=backend
    )
