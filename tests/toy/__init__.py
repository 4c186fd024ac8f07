"""Toy project: SimCLR-style views of synthetic vectors, with dropout, a queue and two stages."""

from dataclasses import dataclass, field
from typing import Annotated

from common.config import DataConfig, ExperimentConfig
from common.ranges import Count, Rate, Whole, at_least


@dataclass
class ToyData(DataConfig):
    """Synthetic data."""

    num_samples: Count = 64
    poison: Annotated[int, at_least(-1)] = -1  # index of a sample that holds NaN


@dataclass
class ModelConfig:
    """A small network."""

    dim: Count = 16
    dropout: Rate = 0.1
    queue_size: Whole = 32


@dataclass
class Config(ExperimentConfig):
    """The toy's config."""

    data: ToyData = field(default_factory=ToyData)
    model: ModelConfig = field(default_factory=ModelConfig)
    num_stages: Count = 2


def build(cfg: Config):
    """The experiment."""
    from tests.toy.module import build_experiment

    return build_experiment(cfg)
