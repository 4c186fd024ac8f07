"""The method: two towers and their objective."""

from torch import Tensor

from common.data.image_text.captions import ImageTextBatch
from common.families.image_text.module import Encoder, ImageTextModule
from projects.new_project.config import Config
from projects.new_project.objective import Objective


class NewProject(ImageTextModule):
    """Images and their texts under the objective, with a learnable logit scale.

    Args:
        cfg: the experiment's config.
        encoder: towers; None builds those of the config.

    Distributed: gathers negatives.
    """

    def __init__(self, cfg: Config, encoder: Encoder | None = None) -> None:
        super().__init__(cfg, encoder)
        self.objective = Objective(cfg.method)

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Loss, terms and logit scale of one batch."""
        image = self.encoder.encode_image(batch["images"])
        text = self.encoder.encode_text(batch["tokens"])
        scale = self.logit_scale()
        terms: dict[str, Tensor] = self.objective(image, text, scale)
        return {**terms, "logit_scale": scale.detach()}
