"""What can be set in a DCL experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.ranges import Count, Positive, Probability, at_least

from common.families.images.config import (  # isort: skip
    ColourChanges,
    ImageSetData,
    ImageSource,
    LinearOptions,
    PredictedModel,
    WatchedEval,
)

Host = Literal["simclr", "moco", "nnclr"]
Loss = Literal["infonce", "dcl", "dclw"]
BatchSize = Annotated[int, at_least(2)]


@dataclass
class DclData(ColourChanges, ImageSetData):
    """Images and SimCLR's augmentation of their views."""

    source: ImageSource = "bundled"
    blur_prob: Probability = 0.0


@dataclass
class ModelConfig(PredictedModel):
    """Encoder and heads; the predictor is NNCLR's."""

    cifar_stem: bool = True


@dataclass
class MethodConfig:
    """The objective and its host."""

    host: Host = "simclr"
    loss: Loss = "dcl"
    temperature: Positive = 0.1  # tau, divides the cosines
    sigma: Positive = 0.5  # DCLW: concentration of the positive weights
    detach_weight: bool = False  # DCLW: no gradient through the weights
    # sum of the two directions (official scale of DCL) or their mean; equal for all losses
    reduction: Literal["sum", "mean"] = "sum"
    gather: bool = True  # negatives of all ranks
    queue_size: Count = 65536  # MoCo
    momentum: Probability = 0.999  # MoCo: of the key encoder
    support_size: Count = 98304  # NNCLR
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.detach_weight and self.loss != "dclw":
            raise ValueError("method.detach_weight needs method.loss=dclw")


@dataclass
class EvalConfig(WatchedEval):
    """Evaluation protocol."""

    knn_temperature: Positive = 0.1  # of the weighted vote
    npc_batch_sizes: list[BatchSize] = field(default_factory=lambda: [4, 8, 16, 64])


@dataclass
class SensitivityConfig:
    """`make run TASK=sensitivity`: one setting at a time, every loss, equal images seen."""

    losses: list[str] = field(default_factory=lambda: ["infonce", "dcl", "dclw"])
    batch_sizes: list[BatchSize] = field(default_factory=lambda: [16, 32, 64, 128])
    temperatures: list[Positive] = field(default_factory=lambda: [0.07, 0.1, 0.2, 0.5])
    lr_factors: list[Positive] = field(default_factory=lambda: [0.3, 1.0, 3.0])
    epoch_factors: list[Positive] = field(default_factory=lambda: [0.5, 1.0])
    queue_sizes: list[Count] = field(default_factory=list)  # method.host=moco
    num_seeds: Count = 1


@dataclass
class Config(ExperimentConfig):
    """DCL experiment."""

    data: DclData = field(default_factory=DclData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    linear: LinearOptions = field(default_factory=LinearOptions)
    sensitivity: SensitivityConfig = field(default_factory=SensitivityConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eval.check_split(self.data.source)
