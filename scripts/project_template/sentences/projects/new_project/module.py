"""The method: a sentence encoder and its objective."""

from collections.abc import Mapping

from torch import Tensor

from common.encoders.text.sentence import SentenceEncoder
from common.families.sentences.module import SentenceModule
from projects.new_project.config import Config
from projects.new_project.objective import Objective


class NewProject(SentenceModule):
    """Two views of every sentence under the objective.

    Args:
        cfg: the experiment's config.
        encoder: encoder that is trained.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim, encoder)
        self.objective = Objective(cfg.method)
        self.scale = 1 / cfg.method.temperature

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and terms of one batch."""
        view_1, view_2 = self.views(batch, 2)
        terms: dict[str, Tensor] = self.objective(view_1, view_2, self.scale)
        return terms
