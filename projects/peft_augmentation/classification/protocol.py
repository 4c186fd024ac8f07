"""What the shared parts read of a project's config."""

from typing import Protocol

from common.config import OptimConfig, TrainerConfig
from projects.peft_augmentation.classification.config import (
    ClassifierEval,
    ClassifierModel,
    LabelledData,
    TuningConfig,
)


class ClassificationConfig(Protocol):
    """The sections that this family reads; a project's config has them among its own."""

    seed: int
    runs_dir: str
    optim: OptimConfig
    trainer: TrainerConfig
    model: ClassifierModel
    tuning: TuningConfig

    @property
    def data(self) -> LabelledData:
        """Texts with classes."""

    @property
    def eval(self) -> ClassifierEval:
        """Protocol."""
