"""A network and a contestant's loss."""

from torch import Tensor

from arena.images.config import Config
from arena.losses import build_loss
from arena.mechanisms import mechanisms
from common.data.image.multi_view import MultiViewBatch
from common.encoders.heads import ProjectedEncoder
from common.encoders.sync_norm import synchronise_batch_norm
from common.families.images.networks import embed_views, projected_encoder
from common.families.images.validation import KnnValidatedModule


class Contest(KnnValidatedModule):
    """Two views of every image under a loss of two embeddings and a scale.

    Attributes:
        labels: (N,) of the training images, for a loss that asks for them.

    Args:
        cfg: the config.
        network: encoder and projector; None builds those of the config.

    Distributed: as the loss.
    """

    labels: Tensor | None = None

    def __init__(self, cfg: Config, network: ProjectedEncoder | None = None) -> None:
        super().__init__(cfg.optim, k=cfg.eval.items_k, temperature=cfg.eval.knn_temperature)
        self.network = network or projected_encoder(cfg)
        self.loss, self.scale = build_loss(cfg.loss), cfg.loss.scale
        self.uses_labels = cfg.loss.labels
        self._views: tuple[Tensor, Tensor] | None = None
        if cfg.model.sync_batchnorm:
            synchronise_batch_norm(self)

    def losses(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        """The loss of one batch."""
        view_1, view_2 = embed_views(self.network, batch["views"])
        self._views = view_1.detach(), view_2.detach()
        more = {}
        if self.uses_labels:
            assert self.labels is not None, "an exported module has no training images"
            more["labels"] = self.labels[batch["ids"].cpu()].to(view_1.device)
        out = self.loss(view_1, view_2, self.scale, **more)
        return {"loss": out if isinstance(out, Tensor) else out.loss}

    def logged_terms(self) -> dict[str, Tensor]:
        """The loss of the last batch, and what it did to the embeddings."""
        return super().logged_terms() | ({} if self._views is None else mechanisms(*self._views))
