"""Toy project: SimCLR-style views of synthetic vectors, with dropout, a queue and two stages."""

from dataclasses import dataclass, field

from common.config import DataConfig, ExperimentConfig


@dataclass
class ToyData(DataConfig):
    """Synthetic data."""

    num_samples: int = 64
    poison: int = -1  # index of a sample that holds NaN


@dataclass
class ModelConfig:
    """A small network."""

    dim: int = 16
    dropout: float = 0.1
    queue_size: int = 32


@dataclass
class Config(ExperimentConfig):
    """The toy's config."""

    data: ToyData = field(default_factory=ToyData)
    model: ModelConfig = field(default_factory=ModelConfig)
    num_stages: int = 2


def build(cfg: Config):
    """The experiment."""
    from tests.toy.module import build_experiment

    return build_experiment(cfg)
