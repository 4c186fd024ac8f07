"""A sentence encoder that is trained with shuffled group whitening and several positives."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import SentenceModule
from projects.whitenedcse.config import Config
from projects.whitenedcse.objective import Objective, WhitenedHead


class WhitenedCSE(SentenceModule):
    """Sentences m times with independent dropout and whitening, contrasted with the first copy.

    The head serves training alone: it is neither evaluated nor exported.

    Args:
        cfg: the experiment's config.
        encoder: encoder that is trained.

    Distributed: gathers negatives; whitens per rank unless `sgw.sync`.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        self.num_pos = cfg.num_pos
        std = float(getattr(encoder.tower.model.config, "initializer_range", 0.02))
        self.head = WhitenedHead(encoder.num_features, cfg.sgw, std)
        self.objective = Objective(cfg.method)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss (also per positive, which compares across m), in-batch top-1 and mean cosines."""
        z = self.head(torch.stack(self.views(batch, self.num_pos)))
        loss, top1 = self.objective(z)
        anchors, positives = z[0].detach(), z[1:].detach()
        return {
            "loss": loss,
            "loss_per_positive": loss / (self.num_pos - 1),
            "top1": top1,
            "positive_cosine": F.cosine_similarity(anchors, positives, dim=-1).mean(),
            "negative_cosine": F.cosine_similarity(anchors, positives.roll(1, 1), dim=-1).mean(),
        }
