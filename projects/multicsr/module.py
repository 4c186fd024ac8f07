"""The student, the frozen mask model alongside it, and the loss of stage 3."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from common.distributed.collectives import row_offset
from common.encoders.text.sentence import SentenceEncoder
from common.engine.module import freeze
from common.families.sentences.module import SentenceModule
from projects.multicsr.config import Config
from projects.multicsr.objective import Objective
from projects.multicsr.official import masked_shares, masks_of_all

HALF = 0.5  # masked share above which a mask model is useless


class MultiCSR(SentenceModule):
    """A sentence encoder trained on triplets; stage 3 masks false negatives in the batch.

    Source: Wang et al. 2024, arXiv 2310.10962.

    Args:
        cfg: the experiment's config.
        encoder: the student.
        guide: frozen mask model with the student's vocabulary; None without stage 3.

    Attributes:
        masked: batches, and sums of the masked shares of foreign columns and of own hard negatives.

    Distributed: gathers negatives, and the mask model's vectors.
    """

    def __init__(
        self, cfg: Config, encoder: SentenceEncoder, guide: SentenceEncoder | None = None
    ) -> None:
        super().__init__(cfg.optim, encoder)
        method = cfg.method
        variant = cfg.stage3.variant if cfg.stage3.enabled else "masked_infonce"
        self.objective = Objective(
            method.temperature, variant, cfg.stage3.phi, method.gather, method.loss_backend
        )
        self.guide = None if guide is None else freeze(guide)
        self.register_buffer("masked", torch.zeros(3))
        self.masked: Tensor

    def train(self, mode: bool = True) -> "MultiCSR":
        """The mask model stays in evaluation mode."""
        super().train(mode)
        if self.guide is not None:
            self.guide.eval()
        return self

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss, in-batch top-1, mean cosines, masked shares; batches come from `TextViews`."""
        embedded = self.views(batch, 3)
        guides = self.guides(batch)
        out = self.objective(embedded, guides)
        z_1, z_2, z_3 = (z.detach() for z in embedded)
        terms = {
            "loss": out.loss,
            "top1": out.hits.float().mean(),
            "positive_cosine": F.cosine_similarity(z_1, z_2).mean(),
            "negative_cosine": F.cosine_similarity(z_1, z_3).mean(),
        }
        if guides is not None:
            gather = self.objective.loss.gather
            keep = masks_of_all(guides, self.objective.phi, gather)
            foreign, hard = masked_shares(keep, row_offset(len(z_1)) if gather else 0)
            terms |= {"masked_share": foreign, "masked_own_negative_share": hard}
            if self.training:
                self._count(foreign, hard)
        return terms

    @torch.no_grad()
    def guides(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...] | None:
        """Vectors of the mask model for the three views, of the same token ids as the student's."""
        if self.guide is None:
            return None
        features: Tensor = self.guide(batch["input_ids"], batch["attention_mask"])
        return torch.chunk(features, 3)

    def negatives_per_query(self, global_batch_size: int) -> int:
        """The other rows' positives and all hard negatives."""
        return max(0, 2 * global_batch_size - 1)

    def _count(self, foreign: Tensor, hard: Tensor) -> None:
        self.masked += torch.stack([torch.ones_like(hard), foreign, hard]).to(self.masked)
        if int(self.masked[0]) == 1 and float(foreign) >= HALF:
            warnings.warn(
                f"the mask model finds {float(foreign):.0%} of the negatives too similar: raise "
                "stage3.phi or take a mask model that was trained on sentences",
                stacklevel=2,
            )
