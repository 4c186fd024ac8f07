"""What can be set in a CLOSE experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.config import ExperimentConfig, OptimConfig
from common.data.row_map.options import RowMapConfig
from common.ranges import Count, NonNegative, Real, Whole, at_least

from projects.close.options import (  # isort: skip
    CaptionConfig,
    CloseData,
    EvalConfig,
    GenerateConfig,
    ServerConfig,
)


@dataclass
class ModelConfig:
    """A frozen dual encoder, and a language model that is trained."""

    clip: str = "bundled:dual-encoder"  # open_clip's format; see common.encoders.pretrained
    half: bool = False  # the dual encoder in half precision, on a GPU
    cache: bool = True  # vectors of training inputs are computed once, before training
    cache_dir: str | None = None  # folder that keeps them between runs
    pretrained: str = "random"  # language model: encoder-decoder or causal
    config: dict[str, Any] | None = None  # with random: model_type and its fields
    tokenizer: str | None = None  # with random: of other weights; None: the built-in one
    dropout: Annotated[float, at_least(0)] | None = None  # None: the model's own
    num_tokens: Count = 4  # made from the vector
    num_constants: Whole = 0  # learned tokens before them


@dataclass
class MethodConfig:
    """How text vectors cross the gap."""

    noise: NonNegative = 0.08  # w
    adapter: Literal["noise", "shift", "random_shift", "linear", "covariance"] = "noise"
    # shift, linear, covariance: a file written by TASK=statistics; "pairs": from held-back pairs,
    # now
    statistics: str | None = None
    shift_scale: Real = 1.0  # shift: times the mean offset of images; random_shift: its length
    covariance_factor: NonNegative = 3.0

    def __post_init__(self) -> None:
        wanted = self.adapter in ("shift", "linear", "covariance")
        if wanted != (self.statistics is not None):
            raise ValueError(
                "method.statistics belongs to the adapters shift, linear and covariance"
            )


@dataclass
class CloseOptim(OptimConfig):
    """AdamW with the released schedule."""

    schedule: Literal["cosine", "linear", "constant", "trapezoid", "warmup_linear"] = "linear"
    # linear: to zero after as many steps as there are samples (released: constant in effect), or
    # steps
    decay_unit: Literal["samples", "steps"] = "samples"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule == "linear" and (self.final_lr or self.warmup_start_lr):
            raise ValueError(
                "optim.schedule=linear goes from 0 and to 0: leave the other rates at 0"
            )


@dataclass
class Config(ExperimentConfig):
    """Experiment with CLOSE."""

    data: CloseData = field(default_factory=CloseData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optim: CloseOptim = field(default_factory=CloseOptim)
    eval: EvalConfig = field(default_factory=EvalConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)
