"""A network and a contestant's loss."""

from torch import Tensor

from arena.contest import ContestModule
from arena.images.config import Config
from common.data.image.multi_view import MultiViewBatch
from common.encoders.heads import ProjectedEncoder
from common.encoders.sync_norm import synchronise_batch_norm
from common.families.images.networks import embed_views, projected_encoder
from common.families.images.validation import KnnValidatedModule


class Contest(KnnValidatedModule, ContestModule):
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
        self.set_loss(cfg.loss, cfg.model.out_dim)
        self.uses_labels = cfg.loss.labels
        if cfg.model.sync_batchnorm:
            synchronise_batch_norm(self)

    def losses(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        """The loss of one batch."""
        view_1, view_2 = embed_views(self.network, batch["views"])
        if not self.uses_labels:
            return self.contest(view_1, view_2)
        assert self.labels is not None, "an exported module has no training images"
        labels = self.labels[batch["ids"].cpu()].to(view_1.device)
        return self.contest(view_1, view_2, labels=labels)
