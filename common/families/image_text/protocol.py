"""What the functions of this family read of a project's config."""

from typing import Protocol

from common.config import OptimConfig, TrainerConfig
from common.families.image_text.config import ImageTextData, ImageTextEval, TwoTowers


class ImageTextConfig(Protocol):
    """The sections; a project's config has them among its own."""

    seed: int
    optim: OptimConfig
    trainer: TrainerConfig

    @property
    def data(self) -> ImageTextData:
        """Pairs."""

    @property
    def model(self) -> TwoTowers:
        """Towers."""

    @property
    def eval(self) -> ImageTextEval:
        """Evaluation."""
