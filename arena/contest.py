"""What the modules of all families share: a contestant's loss, and what it does to a batch."""

from torch import Tensor

from arena.losses import LossConfig, build_loss
from arena.mechanisms import mechanisms
from common.engine.module import ContrastiveModule


class ContestModule(ContrastiveModule):
    """A base of modules whose loss a config names.

    Attributes:
        loss: of two embeddings and a scale.
        scale: 1 / temperature.
    """

    def set_loss(self, cfg: LossConfig, dim: int) -> None:
        """Build the loss of a config for embeddings of `dim`; its parameters are trained along."""
        self.loss, self.scale = build_loss(cfg, dim), cfg.scale
        self._views: tuple[Tensor, Tensor] | None = None

    def contest(self, z_1: Tensor, z_2: Tensor, **more: Tensor) -> dict[str, Tensor]:
        """The loss of raw embeddings: (B, D) and (K * B, D), the K positives of a row in a row."""
        self._views = z_1.detach(), z_2[:: len(z_2) // len(z_1)].detach()
        out = self.loss(z_1, z_2, self.scale, **more)
        return {"loss": out if isinstance(out, Tensor) else out.loss}

    def logged_terms(self) -> dict[str, Tensor]:
        """The loss of the last batch, and what it did to the embeddings."""
        return super().logged_terms() | ({} if self._views is None else mechanisms(*self._views))
