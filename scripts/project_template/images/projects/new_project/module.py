"""The method: a network and its objective."""

from torch import Tensor

from common.data.image.multi_view import MultiViewBatch
from common.encoders.heads import ProjectedEncoder
from common.encoders.sync_norm import synchronise_batch_norm
from common.families.images.networks import embed_views, projected_encoder
from common.families.images.validation import KnnValidatedModule
from projects.new_project.config import Config
from projects.new_project.objective import Objective


class NewProject(KnnValidatedModule):
    """Two views of every image under the objective.

    Args:
        cfg: the experiment's config.
        network: encoder and projector; None builds those of the config.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, network: ProjectedEncoder | None = None) -> None:
        super().__init__(cfg.optim, k=cfg.eval.items_k, temperature=cfg.eval.knn_temperature)
        self.network = network or projected_encoder(cfg)
        self.objective = Objective(cfg.method)
        self.scale = 1 / cfg.method.temperature
        if cfg.model.sync_batchnorm:
            synchronise_batch_norm(self)

    def losses(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        """Loss and terms of one batch."""
        view_1, view_2 = embed_views(self.network, batch["views"])
        terms: dict[str, Tensor] = self.objective(view_1, view_2, self.scale)
        return terms
