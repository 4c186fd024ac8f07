"""What can be set in an experiment of the improved baselines."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.families.image_text.config import ImageTextEval, TwoTowers
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Whole
from projects.clip_baselines.view_options import RocketData


@dataclass
class MethodConfig:
    """The objective; `strong` recipes differ from `basic` ones by switches here and in `data`."""

    name: Literal["clip", "siamlip", "byolip", "barlip", "swalip"] = "clip"
    separate_heads: bool = True  # views pass through MLPs and have a logit scale of their own
    head_dim: Count = 4096  # hidden width of these MLPs
    label_smoothing: Rate = 0.1  # of the views' terms
    text_dropout: Rate = 0.0  # on the input of each text block, augmented texts only
    text_drop_path: Rate = 0.0  # likewise
    reduction: Literal["avg", "sum"] = "sum"
    local_scale_init: Positive = 10.0  # first multiplier of the views' cosines
    gather_grad: bool = False  # keys of several ranks carry a gradient; the official ones don't
    sync_batchnorm: bool = True  # statistics of all ranks, in towers and heads
    separate_children: bool = False  # *LIP heads of clean and augmented views apart
    child_dims: tuple[Count, Count] = (2048, 128)  # Siam, BYOL, SwAV: hidden and output
    barlow_dims: tuple[Count, Count] = (3000, 8192)
    barlow_lambda: NonNegative = 5e-3
    barlow_weight: NonNegative = 0.025
    momentum: Probability = 0.99  # BYOLIP
    swalip_weight: NonNegative = 0.2  # release's commands; its class for prototypes: 1
    prototypes: Count = 3000  # SwALIP without views
    freeze_prototypes_steps: Whole = 100
    sinkhorn_epsilon: Positive = 0.05
    sinkhorn_iterations: Count = 3


@dataclass
class RocketEval(ImageTextEval):
    """Read-outs of the two heads."""

    ensemble: Probability = 0.5  # weight of the linear heads in the headline read-out
    untrained: bool = True  # also evaluate the untrained model (source=pool)


@dataclass
class IndexConfig:
    """`make run TASK=index`: a published index as a CSV of pairs for `data.captions`."""

    input: str | None = None  # pickle of YFCC15M, .npy of CC3M or CC12M; here or below data.root
    output: str | None = None  # CSV that is not there yet


@dataclass
class Config(ExperimentConfig):
    """One cell of the grid {basic, strong} x {CLIP, SiamLIP, BYOLIP, BarLIP, SwALIP}."""

    data: RocketData = field(default_factory=RocketData)
    model: TwoTowers = field(default_factory=TwoTowers)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: RocketEval = field(default_factory=RocketEval)
    index: IndexConfig = field(default_factory=IndexConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.data.check_source()
        data, method = self.data, self.method
        if self.model.open_clip is None:
            raise ValueError("set model.open_clip; this project trains open_clip's towers")
        if method.separate_heads and not data.num_augs:
            raise ValueError("method.separate_heads needs views: set data.num_augs, or false")
        if method.name == "swalip":
            if data.num_augs not in (0, 2):
                raise ValueError("method.name=swalip needs data.num_augs 2, or 0 for prototypes")
            if data.num_augs and method.label_smoothing:
                raise ValueError("method.name=swalip needs method.label_smoothing=0")
        if self.eval.protocols != ["zeroshot"]:
            raise ValueError("eval.protocols: this project judges by zero-shot alone")
        if (self.eval.validate is None) != (self.trainer.val_every_n_steps is None):
            raise ValueError("eval.validate and trainer.val_every_n_steps go together")
