"""A sentence encoder and a contestant's loss."""

from collections.abc import Mapping

from torch import Tensor

from arena.losses import build_loss
from arena.mechanisms import mechanisms
from arena.sentences.config import Config
from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import SentenceModule


class Contest(SentenceModule):
    """Two views of every sentence under a loss of two embeddings and a scale.

    Args:
        cfg: the config.
        encoder: encoder that is trained.

    Distributed: as the loss.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        self.loss, self.scale = build_loss(cfg.loss), cfg.loss.scale
        self._views: tuple[Tensor, Tensor] | None = None

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of one batch."""
        view_1, view_2 = self.views(batch, 2)
        self._views = view_1.detach(), view_2.detach()
        out = self.loss(view_1, view_2, self.scale)
        return {"loss": out if isinstance(out, Tensor) else out.loss}

    def logged_terms(self) -> dict[str, Tensor]:
        """The loss of the last batch, and what it did to the embeddings."""
        return super().logged_terms() | ({} if self._views is None else mechanisms(*self._views))
