"""The symmetric loss of centres and contexts against a bank."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.kernels.specs.base import Valid
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput


class ContextTerms(NamedTuple):
    """Both directions of the loss."""

    center_to_context: LossOutput
    context_to_center: LossOutput

    @property
    def loss(self) -> Tensor:
        """L = L_{c->s} + L_{s->c}."""
        return self.center_to_context.loss + self.context_to_center.loss


class Objective(nn.Module):
    """InfoNCE of centres against contexts and of contexts against centres.

    With unit vectors z_c, z_s and the bank N of one language:

        L_{c->s} = -log exp(z_c.z_s / tau) / (exp(z_c.z_s / tau) + sum_{n in N} exp(z_c.n / tau))

    L_{s->c} the same with the sides exchanged. With `in_batch` all other centres and contexts of
    the batch stand among the negatives of both directions.

    Source: Wu et al. 2022, arXiv 2206.03281 (contrastive context prediction); negatives of the
    batch: released code of MSM, arXiv 2302.01626.

    Args:
        temperature: tau.
        in_batch: whether the batch has negatives too.
        backend: see `PairLoss`.

    Distributed: gathers the negatives of the batch, which is of one language on all ranks; a bank
    is equal on all ranks.
    """

    def __init__(self, temperature: float, *, in_batch: bool = True, backend: str = "auto") -> None:
        super().__init__()
        self.scale = 1 / temperature
        self.info_nce = InfoNCELoss(in_batch=in_batch, query_negatives=in_batch, backend=backend)

    def forward(
        self,
        center: Tensor,
        context: Tensor,
        *,
        context_bank: Tensor,
        center_bank: Tensor,
        context_valid: Tensor,
        center_valid: Tensor,
    ) -> ContextTerms:
        """Mean of each direction.

        Args:
            center: (B, D), any length.
            context: (B, D), row i belongs to ``center[i]``.
            context_bank: (K, D) negatives of the centres, without gradient.
            center_bank: (K, D) negatives of the contexts.
            context_valid: (K,) bool, which rows count: those of the batch's language.
            center_valid: (K,) bool.
        """
        return ContextTerms(
            self._direction(center, context, context_bank, context_valid),  # Eq. 1
            self._direction(context, center, center_bank, center_valid),  # Eq. 2
        )

    def _direction(self, query: Tensor, key: Tensor, bank: Tensor, valid: Tensor) -> LossOutput:
        keys = torch.ones(len(key), dtype=torch.bool, device=valid.device)
        mask = Valid(key=torch.cat([keys, valid]))  # columns: keys, then the bank
        out: LossOutput = self.info_nce(query, key, self.scale, queue=bank, mask=mask)
        return out
