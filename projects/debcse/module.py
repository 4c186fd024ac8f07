"""SimCSE's supervised loss on drawn triplets."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import SentenceModule
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from projects.debcse.config import Config, MethodConfig
from projects.debcse.record import PairRecord

SIDES = ("positive", "negative")


class Objective(nn.Module):
    """InfoNCE from anchors to positives; hard negatives are further columns.

    Source: Gao et al. 2021, equation 5, arXiv 2104.08821, on the triplets of Miao et al. 2023.

    Args:
        method: temperature, weight of the own hard negative, weight of the twin term.
    """

    def __init__(self, method: MethodConfig) -> None:
        super().__init__()
        self.scale, self.twin_weight = 1 / method.temperature, method.twin_weight
        self.loss = InfoNCELoss(
            hard_logit=math.log(method.hard_weight),
            gather=method.gather,
            backend=method.loss_backend,
        )

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor | None = None,
        twin: Tensor | None = None,
    ) -> LossOutput:
        """Loss of raw embeddings, (B, D) each; `twin` adds the second term."""
        # Eq. 5 of Gao et al.; the weight of the own hard negative is its logarithm on the logit
        out: LossOutput = self.loss(anchor, positive, self.scale, hard_negatives=negative)
        if twin is not None:
            second = self.loss(anchor, twin, self.scale, hard_negatives=negative)
            out = out._replace(loss=out.loss + self.twin_weight * second.loss)
        return out


class DebCSE(SentenceModule):
    """A sentence encoder that is trained on drawn triplets, or on dropout twins.

    Args:
        cfg: the experiment's config.
        encoder: encoder that is trained; the scorer is another one and not part of the module.

    Attributes:
        record: statistics of the drawn pairs, for the evaluation; saved with the weights.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        self.objective = Objective(cfg.method)
        self.record = PairRecord()
        self.hard_negatives = cfg.ipw.negatives != "none"

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and in-batch top-1; for drawn pairs their similarities and fallback rates."""
        count = len(batch["input_ids"]) // len(batch["ids"])
        anchor, positive, *others = self.views(batch, count)
        drawn = "surface" in batch  # else dropout twins, two views
        negative = others.pop(0) if drawn and self.hard_negatives else None
        out = self.objective(anchor, positive, negative, *others)
        terms = {
            "loss": out.loss,
            "top1": out.hits.float().mean(),
            "positive_cosine": F.cosine_similarity(anchor.detach(), positive.detach()).mean(),
        }
        if negative is not None:
            terms["negative_cosine"] = F.cosine_similarity(
                anchor.detach(), negative.detach()
            ).mean()
        return terms | (draw_terms(batch, 1 + (negative is not None)) if drawn else {})

    def negatives_per_query(self, global_batch_size: int) -> int:
        """Other positives, and the hard negatives of all rows if there are any."""
        return max(0, global_batch_size - 1) + self.hard_negatives * global_batch_size


def draw_terms(batch: Mapping[str, Tensor], sides: int) -> dict[str, Tensor]:
    """Means of what was drawn for a batch, per side."""
    terms = {"positive_length_difference": batch["length_difference"].mean()}
    for column, side in enumerate(SIDES[:sides]):
        terms[f"{side}_fallback"] = batch["fallback"][:, column].float().mean()
        terms[f"{side}_effective"] = batch["effective"][:, column].mean()
        scored = ~torch.isnan(batch["semantic"][:, column])
        for name in ("surface", "semantic"):
            total = torch.where(scored, batch[name][:, column], 0.0).sum()
            terms[f"{side}_{name}"] = total / scored.sum().clamp(min=1)
    return terms
