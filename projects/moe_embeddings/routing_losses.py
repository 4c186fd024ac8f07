"""Losses on router logits of mixtures of experts: balance, specialisation, given experts.

# N rows (texts of all layers), B texts, E experts, T tasks (domains)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.losses.output import at_least_float32, full_precision

_EPS = 1e-4  # of the released mutual information


@full_precision
def load_balancing(logits: Sequence[Tensor]) -> Tensor:
    """E times the agreement of mean probabilities and shares of rows: 1 if rows are spread evenly.

        L = E * sum_e p_e * f_e

    p_e is the mean probability of expert e, f_e the share of rows whose best expert is e (no
    gradient), both over the texts of all layers.

    Source: Fedus et al. 2021, "Switch transformers", equations 4 to 6, arXiv 2101.03961; over all
    layers at once as in the released code of Hallee et al. 2024, arXiv 2401.15713.

    Args:
        logits: of each layer, (B, E).

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: no layer with a router.

    Distributed: local.

    >>> load_balancing([torch.tensor([[9.0, 0.0], [0.0, 9.0]])])
    tensor(1.)
    """
    rows = _stacked(logits).flatten(0, 1)
    experts = rows.shape[1]
    share = F.one_hot(rows.argmax(-1), experts).to(rows.dtype).mean(0)
    return experts * (rows.softmax(-1).mean(0) * share).sum()


@full_precision
def specified_expert(logits: Sequence[Tensor], expert: Tensor) -> Tensor:
    """Cross entropy of the mean logits over layers against the expert that a text should go to.

    Source: Hallee et al. 2024, "Contrastive learning and mixture of experts enables precise vector
    embeddings", arXiv 2401.15713, and released code.

    Args:
        logits: of each layer, (B, E).
        expert: (B,) int64.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: no layer with a router.

    Distributed: local.

    >>> specified_expert([torch.zeros(2, 4)], torch.tensor([0, 3])).exp().round(decimals=4)
    tensor(4.)
    """
    return F.cross_entropy(_stacked(logits).mean(0), expert)


@full_precision
def router_information(logits: Sequence[Tensor], task: Tensor, num_tasks: int) -> Tensor:
    """Mutual information of task and expert in a batch, which a specialised router has much of.

        I = sum_t,e P(t, e) log [P(t, e) / (P(t) P(e))]
        P(t, e) = mean over rows of [task = t] p_e

    Source: Chen et al. 2022, "Mod-Squad", equation 4, arXiv 2212.08066; Hallee et al. 2024, arXiv
    2401.15713, whose loss is ``-w I``.

    Args:
        logits: of each layer, (B, E).
        task: (B,) int64 in [0, num_tasks).
        num_tasks: T.

    Returns:
        Scalar in [0, log min(T, E)], with gradient; to be made large.

    Raises:
        ValueError: no layer with a router.

    Distributed: local.

    >>> one_each = torch.tensor([[90.0, 0.0], [0.0, 90.0]])
    >>> router_information([one_each], torch.tensor([0, 1]), 2).exp().round(decimals=4)
    tensor(2.)
    """
    stacked = _stacked(logits)
    joint = stacked.new_zeros(num_tasks, stacked.shape[-1])
    joint = joint.index_add(0, task, stacked.softmax(-1).mean(0)) / len(task)
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    tiny = torch.finfo(joint.dtype).tiny
    return (joint * (joint.clamp_min(tiny) / apart.clamp_min(tiny)).log()).sum()


class AccumulatedInformation(nn.Module):
    """The released form of the loss ``-I``: from a table that grows over training; no gradient.

    A row of a task is added as often as the task occurs in the batch, and the table sums to
    `top_k`, which shifts the value by ``top_k * log(top_k)`` and scales it by `top_k`.

    Source: released code of Hallee et al. 2024, arXiv 2401.15713 (May 2024).

    Args:
        num_tasks: T.
        num_experts: E.
        top_k: experts of a row.

    Attributes:
        table: (T, E) sums of probabilities so far.

    Distributed: local; under DDP, which broadcasts buffers, all ranks go on from the table of the
    first.
    """

    table: Tensor

    def __init__(self, num_tasks: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.register_buffer("table", torch.zeros(num_tasks, num_experts))

    @torch.no_grad()
    def forward(self, logits: Sequence[Tensor], task: Tensor) -> Tensor:
        """Add a batch of router logits, each (B, E), and tasks (B,); the loss, a scalar."""
        times = torch.bincount(task, minlength=len(self.table))
        for layer in logits:
            rows = at_least_float32(layer).softmax(-1).to(self.table)
            self.table += torch.zeros_like(self.table).index_add(0, task, rows) * times[:, None]
        joint = self.table / (self.table.sum() / self.top_k + _EPS)
        tasks, experts = joint.sum(1, keepdim=True) + _EPS, joint.sum(0, keepdim=True) + _EPS
        return -(joint * (joint / tasks / experts + _EPS).log()).sum()


def _stacked(logits: Sequence[Tensor]) -> Tensor:
    if not len(logits):
        raise ValueError("no layer has a router: there are no logits")
    return torch.stack([at_least_float32(x) for x in logits])
