"""Pairs of documents against the rest of the batch: MNR, and targets made from the batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.distributed.collectives import row_offset
from common.distributed.differentiable import all_gather_with_grad
from common.losses.output import LossOutput, check_pair, embeddings, full_precision
from projects.moe_embeddings.config import MethodConfig

LEAST_TEMPERATURE = 0.01


@torch.no_grad()
def soft_targets(
    first: Tensor, second: Tensor, temperature: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """Which document each one is to find, by what the batch itself looks like.

        T = softmax_row((A A^T + B B^T) / 2 * t),   y = argmax_row T,   y' = argmax_row T^T

    Nearly always y = y' = (0, 1, ..., n - 1); a document of small norm can point to another.

    Source: Hallee et al. 2024, arXiv 2401.15713, and released code ("clip_loss").

    Args:
        first: (N, D) A.
        second: (N, D) B.
        temperature: t.

    Returns:
        y and y', (N,) int64 each, without gradient.
    """
    similar = (first @ first.T + second @ second.T) / 2 * temperature
    targets = similar.softmax(1)  # Eq. 1
    return targets.argmax(1), targets.argmax(0)


class Objective(nn.Module):
    """Loss of N pairs (a_i, b_i), embeddings A and B, S = A B^T / t.

        mnr:       CE(S, diagonal)
        mnr_plus:  1/2 [CE(S, y) + CE(S^T, y')], see `soft_targets`
        clip:      the same with a temperature t, learned if asked

    Source: Hallee et al. 2024, section "Training", arXiv 2401.15713; released code of 2025
    ("mnr_plus", t = 1, dot products) and of May 2024 ("clip", t learned from 0.7).

    Args:
        method: section of the config.

    Attributes:
        temperature: t; None: 1.

    Raises:
        ValueError: embeddings that don't pair up.

    Distributed: gathers negatives and targets (local if not `gather`).
    """

    temperature: Tensor | None

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.kind, self.normalize, self.gather = method.loss, method.normalize, method.gather
        begin = None if method.temperature is None else torch.tensor(float(method.temperature))
        if begin is None:
            self.temperature = None
        elif method.learn_temperature:
            self.temperature = nn.Parameter(begin)
        else:
            self.register_buffer("temperature", begin)

    def forward(self, first: Tensor, second: Tensor, *, gather: bool = True) -> LossOutput:
        """Loss of the pairs of this rank.

        Args:
            first: (B, D) A, raw embeddings.
            second: (B, D) B, row i belongs to row i of A.
            gather: False: these pairs alone, whatever the method says.
        """
        out: LossOutput = self._loss(first, second, gather and self.gather)
        return out

    @full_precision
    def _loss(self, first: Tensor, second: Tensor, gather: bool) -> LossOutput:
        check_pair(first, second, names="a, b")
        a, b = (embeddings(x, self.normalize) for x in (first, second))
        t = 1.0 if self.temperature is None else self.temperature.to(a.dtype)
        all_a, all_b = (all_gather_with_grad(x) if gather else x for x in (a, b))
        start = row_offset(len(a)) if gather else 0
        local = slice(start, start + len(a))
        there = a @ all_b.T / t  # rows of S
        pairs = torch.arange(start, start + len(a), device=a.device)
        hits = there.detach().argmax(1).eq(pairs)
        if self.kind == "mnr":
            rows = F.cross_entropy(there, pairs, reduction="none")  # Eq. 2
            return LossOutput(rows.mean(), rows, hits)
        back = b @ all_a.T / t  # rows of S^T
        y, y_back = soft_targets(all_a.detach(), all_b.detach(), t)
        rows = 0.5 * (  # Eq. 3
            F.cross_entropy(there, y[local], reduction="none")
            + F.cross_entropy(back, y_back[local], reduction="none")
        )
        return LossOutput(rows.mean(), rows, hits)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Keep a learned temperature at 0.01 or more; a given one stays as it was given."""
        if isinstance(self.temperature, nn.Parameter):
            self.temperature.clamp_(min=LEAST_TEMPERATURE)
