"""What can be set; values stand in configs/contriever. Nothing heavy is imported here."""

from dataclasses import dataclass, field

from common.config import DataConfig, ExperimentConfig


@dataclass
class ImageData(DataConfig):
    """Made-up images, two views each."""

    num_train: int = 256  # images that are trained on
    num_test: int = 128  # held-out images
    image_size: int = 16  # height and width in pixels
    noise: float = 0.3  # standard deviation of the pixel noise, in units of the value range

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.num_train, self.num_test, self.image_size) < 1:
            raise ValueError("data.num_train, num_test and image_size must be >= 1")


@dataclass
class ModelConfig:
    """Encoder and projection head."""

    widths: list[int] = field(default_factory=lambda: [16, 32])  # channels of each stage
    out_dim: int = 32  # D, dimension of the embeddings that are contrasted


@dataclass
class MethodConfig:
    """The objective."""

    temperature: float = 0.1  # tau, divides the cosines
    pull_weight: float = 1.0  # lambda, of the squared distance between the views

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.pull_weight < 0:
            raise ValueError("method.temperature must be > 0, method.pull_weight >= 0")


@dataclass
class EvalConfig:
    """k-nearest-neighbour classification of the frozen features."""

    neighbours: int = 5


@dataclass
class Config(ExperimentConfig):
    """Contriever experiment."""

    data: ImageData = field(default_factory=ImageData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
