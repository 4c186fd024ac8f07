"""Two towers and a contestant's loss."""

import math

from torch import Tensor

from arena.contest import ContestModule
from arena.image_text.config import Config
from common.data.image_text.captions import ImageTextBatch
from common.families.image_text.module import Encoder, ImageTextModule


class Contest(ImageTextModule, ContestModule):
    """An image and its text under a loss of two embeddings and a scale, which is not learnt.

    Args:
        cfg: the config.
        encoder: towers; None builds those of the config.

    Distributed: as the loss.
    """

    def __init__(self, cfg: Config, encoder: Encoder | None = None) -> None:
        super().__init__(cfg, encoder)
        self.set_loss(cfg.loss, self.encoder.embed_dim)
        self.logit_scale.log_scale.requires_grad_(False).fill_(math.log(self.scale))

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """The loss of one batch."""
        image, tokens = self.encoder.encode_image(batch["images"]), batch["tokens"]
        rows = tokens.flatten(0, 1) if tokens.ndim == 3 else tokens  # texts of an image in a row
        return self.contest(image, self.encoder.encode_text(rows))
