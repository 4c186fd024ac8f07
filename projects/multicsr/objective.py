"""Stage 3: SimCSE's supervised loss whose false negatives leave the softmax."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.distributed.collectives import row_offset
from common.distributed.differentiable import all_gather_with_grad
from common.distributed.process import default_group
from common.losses.functional.masks import guide_mask
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.multicsr.official import masks_of_all, official_bce


class Objective(nn.Module):
    """Supervised InfoNCE of anchors, positives and hard negatives, with or without a mask.

    Source: Gao et al. 2021, equation 5, arXiv 2104.08821; masked: Wang et al. 2024, stage 3,
    arXiv 2310.10962 (the sum leaves out what the mask model finds too similar).

    Args:
        temperature: tau.
        variant: "masked_infonce", or "official_bce".
        phi: threshold of the mask, on the cosine for any temperature.
        gather: negatives of all ranks.
        backend: see `PairLoss`.

    Distributed: gathers negatives, and the mask model's vectors with them.
    """

    def __init__(
        self,
        temperature: float,
        variant: str = "masked_infonce",
        phi: float = 0.95,
        gather: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.temperature, self.variant, self.phi = temperature, variant, phi
        self.loss = InfoNCELoss(gather=gather, backend=backend)

    def forward(
        self, views: tuple[Tensor, ...], guides: tuple[Tensor, ...] | None = None
    ) -> LossOutput:
        """Loss of raw embeddings.

        Args:
            views: anchors, positives and hard negatives, (B, D) each.
            guides: their vectors of the mask model, (B, R) each; None: nothing is masked.
        """
        anchor, positive, negative = views
        if self.variant == "official_bce":
            return self._official(views, guides)
        mask = None
        if guides is not None:
            unit = [F.normalize(guide.float(), dim=1) for guide in guides]
            mask = guide_mask(unit[0], unit[1:], threshold=self.phi)
        # l_i = -log exp(s+_ii / tau) / (sum_j m+_ij exp(s+_ij / tau) + sum_j m-_ij exp(s-_ij /
        # tau))
        out: LossOutput = self.loss(
            anchor, positive, 1 / self.temperature, hard_negatives=negative, mask=mask
        )
        return out

    def _official(self, views: tuple[Tensor, ...], guides: tuple[Tensor, ...] | None) -> LossOutput:
        anchor, positive, negative = views
        offset = 0
        if self.loss.gather:
            offset = row_offset(len(anchor), default_group())
            positive, negative = all_gather_with_grad(positive), all_gather_with_grad(negative)
        keep = torch.ones(len(anchor), 2 * len(positive), dtype=torch.bool, device=anchor.device)
        if guides is not None:
            keep = masks_of_all(guides, self.phi, self.loss.gather)
        return official_bce(anchor, positive, negative, keep, self.temperature, offset)
