"""The method: a network and its objective."""

from torch import Tensor

from common.encoders.heads import ProjectedEncoder
from common.engine.module import ContrastiveModule
from projects.dcl.views import TwoViewBatch
from projects.new_project.config import Config
from projects.new_project.network import build_network
from projects.new_project.objective import Objective


class NewProject(ContrastiveModule):
    """Two views of every image under the objective.

    Args:
        cfg: the experiment's config.
        network: an exported network; None builds the one of the config.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, network: ProjectedEncoder | None = None) -> None:
        super().__init__(cfg.optim)
        self.network = network or build_network(cfg.model.widths, cfg.model.out_dim)
        self.objective = Objective(cfg.method)

    def losses(self, batch: TwoViewBatch) -> dict[str, Tensor]:
        """Loss and terms of one batch of two views."""
        view_1, view_2 = self.network(batch["view_1"]), self.network(batch["view_2"])
        terms: dict[str, Tensor] = self.objective(view_1, view_2)
        return terms
