"""A text encoder and a contestant's loss."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from arena.contest import ContestModule
from arena.retrieval.config import Config
from common.encoders.text.sentence import SentenceEncoder


class Contest(ContestModule):
    """Two views of every chunk under a loss of two embeddings and a scale.

    Args:
        cfg: the config.
        encoder: what is trained, for queries and documents.

    Distributed: as the loss.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim)
        self.encoder = encoder
        self.set_loss(cfg.loss, encoder.tower.num_features)

    def losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss of one batch."""
        return self.contest(self.encoder(**batch["query"]), self.encoder(**batch["key"]))
