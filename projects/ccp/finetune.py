"""Fine-tuning as DPR does it: questions against the passages of all questions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from common.config import UserError
from common.distributed.collectives import all_gather_no_grad
from common.engine.module import ContrastiveModule
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.ccp.config import Config
from projects.ccp.towers import Towers


class DPR(ContrastiveModule):
    """Fine-tuning: softmax over the passages of all questions, by dot products.

        L = -1/B sum_i log exp(q_i.p_i) / sum_j exp(q_i.c_j)

    c: positives and hard negatives of all questions of all ranks.

    Source: Karpukhin et al. 2020, "DPR", equation 2, arXiv 2004.04906; released code of CCP.

    Args:
        cfg: the experiment's config.
        encoder: is split into two towers unless ``finetune.share_towers``.

    Distributed: gathers negatives, with gradient.
    """

    def __init__(self, cfg: Config, encoder: Towers) -> None:
        options = cfg.finetune
        super().__init__(
            replace(cfg.optim, lr=options.lr, warmup_steps=options.warmup_steps, warmup_epochs=0.0)
        )
        if options.share_towers and encoder.own_question is not None:
            raise UserError("model.pretrained has two towers: set finetune.share_towers=false")
        if not options.share_towers:
            encoder.split()
        self.encoder, self.num_negatives = encoder, options.num_negatives
        self.objective = DPRLoss(options.temperature)
        self._seen: list[Tensor] = []

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Loss, and share of questions whose passage scores best."""
        out = self.objective(*self._vectors(batch))
        assert out.hits is not None
        return {"loss": out.loss, "accuracy": out.hits.float().mean()}

    def _vectors(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        return self.encoder.question(**batch["query"]), self.encoder.passage(**batch["key"])

    def negatives_per_query(self, global_batch_size: int) -> int:
        """The other passages of all questions."""
        return global_batch_size * (1 + self.num_negatives) - 1

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss within a batch of this rank."""
        self._seen.append(self.objective(*self._vectors(batch), gather=False).per_sample)

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the questions of all ranks, as ``val/nll``."""
        nll = all_gather_no_grad(torch.cat(self._seen))
        self._seen = []
        self.log("val/nll", nll.mean())


class DPRLoss(nn.Module):
    """See `DPR`; the row-major list of passages has the positives first, then the negatives."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.scale = 1 / temperature
        self.info_nce = InfoNCELoss(normalize=False)
        self.local = InfoNCELoss(normalize=False, gather=False)

    def forward(self, question: Tensor, passage: Tensor, *, gather: bool = True) -> LossOutput:
        """Loss of questions (B, D) and passages (B + B n, D): positives, then n negatives each."""
        rows = len(question)
        right, wrong = passage[:rows], passage[rows:].reshape(rows, -1, passage.shape[1])
        loss = self.info_nce if gather else self.local
        out: LossOutput = loss(  # Eq. 4
            question, right, self.scale, hard_negatives=wrong if wrong.shape[1] else None
        )
        return out
