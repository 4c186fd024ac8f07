"""The method: a text encoder and its objective."""

from collections.abc import Mapping

from torch import Tensor

from common.encoders.text.sentence import SentenceEncoder
from common.engine.module import ContrastiveModule
from projects.new_project.config import Config
from projects.new_project.objective import Objective


class NewProject(ContrastiveModule):
    """Queries and their documents under the objective.

    Args:
        cfg: the experiment's config.
        encoder: what is trained, for both sides.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: SentenceEncoder) -> None:
        super().__init__(cfg.optim)
        self.encoder = encoder
        self.objective = Objective(cfg.method)
        self.scale = 1 / cfg.method.temperature

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss and terms of one batch."""
        queries, documents = self.encoder(batch["input_ids"], batch["attention_mask"]).chunk(2)
        terms: dict[str, Tensor] = self.objective(queries, documents, self.scale)
        return terms
