"""What can be set in a COSMO experiment."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.ranges import NonNegative, Real
from projects.cosmo.options import CaptionConfig, CosmoData, EvalConfig, ModelConfig, VideoConfig


@dataclass
class MethodConfig:
    """The two losses."""

    contrastive_weight: NonNegative = 1.0  # lambda; 0: a generation model without contrastive parts
    # theta: cosines are multiplied by exp(theta). Released: 0.2 (1.22); ln(1 / 0.07) = 2.659 for
    # new runs
    logit_scale_init: Real = 0.2
    gather: Literal["local", "node", "all"] = "local"  # whose texts and pictures are negatives
    duplicates: Literal["keep", "mask"] = (
        "keep"  # mask: equal captions are no negatives of each other
    )
    guard: bool = False  # a loss far above its moving average is scaled down to it
    apply_weights: bool = False  # data.weights; the release never applies them


@dataclass
class Config(ExperimentConfig):
    """Experiment with COSMO."""

    data: CosmoData = field(default_factory=CosmoData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)
