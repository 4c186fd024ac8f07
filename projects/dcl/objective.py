"""InfoNCE, DCL and DCLW for two views (SimCLR) and for one direction (MoCo, NNCLR).

# B samples of this rank, N of all ranks
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.losses.functional.kernel import mean_loss
from common.losses.functional.two_view import (
    anchor_scores,
    npc_multiplier,
    von_mises_fisher_weight,
)
from common.losses.info_nce import InfoNCELoss
from common.losses.two_view import DCLLoss, NTXentLoss
from projects.dcl.config import MethodConfig


class ObjectiveOutput(NamedTuple):
    """Loss and diagnostics of one batch."""

    loss: Tensor  # scalar with gradient
    npc: Tensor  # (anchors,) multiplier q_B, detached; empty where it was not asked for
    hits: Tensor  # (B,) bool, the positive is the most similar candidate


class TwoViewObjective(nn.Module):
    """Both views of every sample against the 2N - 2 vectors of other samples (SimCLR host).

        InfoNCE: L_a = log(exp(p_a) + U_a) - p_a      DCL: log U_a - p_a      DCLW: log U_a - w p_a

    averaged over samples and summed (or averaged) over the two directions.
    Source: Yeh et al. 2022, equations 1, 6 and 7, arXiv 2110.06848.

    Args:
        cfg: the method section.

    Distributed: gathers negatives (local if ``gather=False``).
    """

    def __init__(self, cfg: MethodConfig) -> None:
        super().__init__()
        self.scale = 1 / cfg.temperature
        options = {"gather": cfg.gather, "backend": cfg.loss_backend}
        self.loss: NTXentLoss | DCLLoss
        if cfg.loss == "infonce":
            self.loss = NTXentLoss(**options)  # type: ignore[arg-type]
            terms = 0.5  # a mean over both directions
        else:
            weighted = cfg.loss == "dclw"
            self.loss = DCLLoss(weighted, cfg.sigma, cfg.detach_weight, **options)  # type: ignore[arg-type]
            terms = 1.0  # their sum
        self.factor = (1.0 if cfg.reduction == "sum" else 0.5) / terms

    def forward(self, view_1: Tensor, view_2: Tensor, diagnose: bool = False) -> ObjectiveOutput:
        """Loss of a batch.

        Args:
            view_1: (B, D) raw embeddings.
            view_2: (B, D), row i is the other view of sample i.
            diagnose: also compute the coupling multiplier, by a second pass without gradient.
        """
        out = self.loss(view_1, view_2, self.scale)
        npc = self.npc(view_1, view_2) if diagnose else out.loss.new_empty(0)
        return ObjectiveOutput(self.factor * out.loss, npc, out.hits)

    @torch.no_grad()
    def npc(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """q_B of the 2B anchors, view 1 then view 2."""
        rows = self.loss.prepare(view_1), self.loss.prepare(view_2)
        scores = anchor_scores(*rows, self.scale, **self.loss.kernel)
        return npc_multiplier(scores.negatives, scores.positive)


class OneWayObjective(nn.Module):
    """Queries against one positive key each and a pool of negatives (MoCo and NNCLR hosts).

        InfoNCE: L_i = log(exp(p_i) + U_i) - p_i      DCL: log U_i - p_i      DCLW: log U_i - w p_i

    MoCo: U sums over the queue alone. NNCLR: U sums over the keys of other samples.
    Source: Yeh et al. 2022, section 3 and appendix (MoCo and NNCLR hosts), arXiv 2110.06848.

    Args:
        cfg: the method section.
        in_batch: whether the keys of other samples are negatives.

    Distributed: gathers in-batch negatives (local if ``gather=False``); a queue is never gathered.
    """

    def __init__(self, cfg: MethodConfig, in_batch: bool) -> None:
        super().__init__()
        self.scale, self.name = 1 / cfg.temperature, cfg.loss
        self.sigma, self.detach_weight = cfg.sigma, cfg.detach_weight
        self.loss = InfoNCELoss(
            in_batch=in_batch,
            decoupled=cfg.loss != "infonce",
            gather=cfg.gather,
            backend=cfg.loss_backend,
        )

    def forward(self, query: Tensor, key: Tensor, queue: Tensor | None = None) -> ObjectiveOutput:
        """Loss of a batch.

        Args:
            query: (B, D) raw embeddings.
            key: (B, D), row i is the positive of query i.
            queue: (K, D) negatives without gradient.
        """
        out = self.loss(query, key, self.scale, queue=queue)
        loss, rows = out.loss, out.per_sample.detach()
        npc = rows.sigmoid() if self.loss.decoupled else -torch.expm1(-rows)  # rows = log U - p
        if self.name == "dclw":
            cosine = (self.loss.prepare(query) * self.loss.prepare(key)).sum(1)
            weight = von_mises_fisher_weight(cosine, self.sigma, **self.loss.kernel)
            weight = weight.detach() if self.detach_weight else weight
            loss = loss + mean_loss((1 - weight) * self.scale * cosine, self.loss.kernel)
        assert out.hits is not None
        return ObjectiveOutput(loss, npc, out.hits)
