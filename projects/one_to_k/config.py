"""What can be set; values stand in configs/one_to_k. Nothing heavy is imported here."""

from dataclasses import dataclass, field

from common.config import DataConfig, ExperimentConfig
from common.ranges import Count, Counts, NonNegative, Positive


@dataclass
class ImageData(DataConfig):
    """Made-up images, two views each."""

    num_train: Count = 256  # images that are trained on
    num_test: Count = 128  # held-out images
    image_size: Count = 16  # height and width in pixels
    noise: NonNegative = 0.3  # standard deviation of the pixel noise, in units of the value range


@dataclass
class ModelConfig:
    """Encoder and projection head."""

    widths: Counts = field(default_factory=lambda: [16, 32])  # channels of each stage
    out_dim: Count = 32  # D, dimension of the embeddings that are contrasted


@dataclass
class MethodConfig:
    """The objective."""

    temperature: Positive = 0.1  # tau, divides the cosines
    pull_weight: NonNegative = 1.0  # lambda, of the squared distance between the views


@dataclass
class EvalConfig:
    """k-nearest-neighbour classification of the frozen features."""

    neighbours: Count = 5


@dataclass
class Config(ExperimentConfig):
    """OneToK experiment."""

    data: ImageData = field(default_factory=ImageData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
