"""A sentence encoder and a contestant's loss."""

from collections.abc import Mapping

from torch import Tensor

from arena.contest import ContestModule
from arena.sentences.config import Config
from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import SentenceModule


class Contest(SentenceModule, ContestModule):
    """Two views of every sentence under a loss of two embeddings and a scale.

    Args:
        cfg: the config.
        encoder: encoder that is trained.

    Distributed: as the loss.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        self.set_loss(cfg.loss, encoder.tower.num_features)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of one batch."""
        return self.contest(*self.views(batch, 2))
