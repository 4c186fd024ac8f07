"""What the shared parts read of a project's config."""

from typing import Protocol

from common.config import TrainerConfig
from common.families.sentences.config import SearchConfig, SentenceData, StsEval, TextModel


class SentenceExperimentConfig(Protocol):
    """The sections that this module reads; a project's config has them among its own."""

    seed: int
    runs_dir: str
    trainer: TrainerConfig

    @property
    def data(self) -> SentenceData:
        """Texts."""

    @property
    def model(self) -> TextModel:
        """Encoder."""

    @property
    def eval(self) -> StsEval:
        """Protocol."""

    @property
    def search(self) -> SearchConfig:
        """Options of the search task."""
