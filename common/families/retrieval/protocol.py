"""What the shared parts read of a project's config."""

from typing import Protocol

from common.config import DataConfig, TrainerConfig
from common.evaluation.retrieval.options import SearchConfig
from common.families.retrieval.config import RetrievalData, RetrievalEval


class RetrievalExperimentConfig(Protocol):
    """The sections that this family reads; a project's config has them among its own."""

    seed: int
    runs_dir: str
    trainer: TrainerConfig

    @property
    def data(self) -> DataConfig:
        """Training texts, in any form."""

    @property
    def eval(self) -> RetrievalEval:
        """Protocol."""

    @property
    def search(self) -> SearchConfig:
        """Options of the search task."""


class TrainingSetsConfig(Protocol):
    """What `training_sets` reads."""

    seed: int
    runs_dir: str
    trainer: TrainerConfig

    @property
    def data(self) -> RetrievalData:
        """Training sets."""
