"""Target-anchored text contrast with the refined batch.

# B triplets, D joint space
"""

import torch
from torch import Tensor, nn

from common.losses.output import LossOutput
from common.losses.two_view import NTXentLoss, TargetAnchoredLoss


def contrastive_loss(
    target: Tensor, composed: Tensor, temperature: float = 0.07, *, frozen_target: bool = False
) -> LossOutput:
    """NT-Xent over the vectors of both sides; the positive stays in the denominator.

        L = -1/2N sum_a log( exp(a . a+ / tau) / sum_{b != a} exp(a . b / tau) )

    Source: Byun et al. 2025, arXiv 2406.09188, and its official code.

    Args:
        target: (N, D) embeddings of targets, any length of rows.
        composed: (N, D), row i belongs to target i.
        temperature: tau > 0.
        frozen_target: no gradient through the targets.

    Returns:
        Mean over the 2N anchors.

    Distributed: local.
    """
    loss = TargetAnchoredLoss(gather=False) if frozen_target else NTXentLoss(gather=False)
    output: LossOutput = loss(target, composed, 1 / temperature)
    return output


def refined_batch(
    target: Tensor, reference: Tensor, composed: Tensor, special: Tensor
) -> tuple[Tensor, Tensor]:
    """2B pairs of B triplets: the reference is a hard negative of the composed query.

    Args:
        target: (B, D) t.
        reference: (B, D) r.
        composed: (B, D) q, of reference and condition.
        special: (B, D) e, of the reference alone.

    Returns:
        V = [t; r] and W = [q; e], (2B, D) each; row i of W belongs to row i of V.
    """
    return torch.cat([target, reference]), torch.cat([composed, special])


class Objective(nn.Module):
    """The loss of a batch, with two of the paper's three ingredients to switch off.

    Source: Byun et al. 2025, arXiv 2406.09188, and its official code.

    Args:
        temperature: tau.
        frozen_target: target-anchored: gradient through the queries alone.
        refined: with references as further targets.
        gather: negatives of all ranks; the release has those of its own rank.

    Distributed: gathers negatives if `gather`, else local.
    """

    def __init__(
        self, temperature: float, *, frozen_target: bool, refined: bool, gather: bool
    ) -> None:
        super().__init__()
        self.scale, self.refined = 1 / temperature, refined
        self.loss = (
            TargetAnchoredLoss(gather=gather) if frozen_target else NTXentLoss(gather=gather)
        )

    def forward(
        self, target: Tensor, reference: Tensor, composed: Tensor, special: Tensor | None
    ) -> LossOutput:
        """Loss of B triplets; see `refined_batch`, `special` is None without refinement."""
        anchors, queries = target, composed
        if self.refined:
            assert special is not None
            anchors, queries = refined_batch(target, reference, composed, special)
        loss: LossOutput = self.loss(anchors, queries, self.scale)  # equation of `contrastive_loss`
        return loss
