"""What can be set in a CACR experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig, OptimConfig

from common.families.images.config import (  # isort: skip
    IN_MEMORY,
    ColourChanges,
    ImageSetData,
    ImageSource,
    Jitter,
    LinearOptions,
    PredictedModel,
    WatchedEval,
)
from common.ranges import (  # isort: skip
    Count,
    Counts,
    Interval,
    NonNegative,
    Positive,
    Probabilities,
    Probability,
    Rate,
    Seed,
    Share,
    Whole,
    at_least,
)


@dataclass
class CacrData(ColourChanges, ImageSetData):
    """Images and their augmentation."""

    # folder: any pictures below data.folder, judged on ImageNet-1k
    source: Literal[ImageSource, "folder"] = "bundled"
    folder: str | None = None  # of source=folder, below the data root
    imbalance: Literal["none", "linear", "exponential"] = "none"  # class c keeps (c + 1) / C
    subset_seed: Seed | None = None  # draws limited and imbalanced subsets; None: the seed
    views: Annotated[int, at_least(2)] = 5  # K + 1 views of every image
    local_views: Whole = 0  # further small crops (method.host=momentum)
    local_size: Count = 96  # of these, in pixels
    local_scale: Interval = (0.05, 0.4)
    crop_scale: Interval = (0.2, 1.0)
    jitter: Jitter = (0.4, 0.4, 0.4, 0.4)
    jitter_prob: Probability = 1.0
    blur_prob: Probabilities = field(default_factory=lambda: [0.0])  # of the views in turn
    solarise_prob: Probabilities = field(default_factory=lambda: [0.0])  # of the views in turn
    local_blur_prob: Probability = 0.5
    local_interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.imbalance != "none" and self.limit is not None:
            raise ValueError("data.limit draws a balanced subset; null it or data.imbalance")
        if self.imbalance != "none" and self.source not in IN_MEMORY:
            raise ValueError(f"data.imbalance is for sets in memory, not for {self.source}")
        if self.imbalance != "none" and self.source == "stl10":
            raise ValueError("data.imbalance needs labels, which stl10's training images lack")
        if (self.source == "folder") != (self.folder is not None):
            raise ValueError("data.folder belongs to data.source=folder: give both or neither")


@dataclass
class ModelConfig(PredictedModel):
    """Encoder and heads; the predictor is that of method.host=momentum."""

    backbone: str = "small_alexnet"
    widths: Counts = field(default_factory=lambda: [24, 48, 64])
    projector: list[Count] = field(default_factory=list)
    projector_last_affine: bool = False  # MoCo v3's norms end without scale and shift
    predictor: list[Count] = field(default_factory=lambda: [4096])
    predictor_last_norm: bool = False
    # a ResNet with bottlenecks starts its residual blocks as the identity: no scale in the last norm
    zero_init_residual: bool = False


@dataclass
class MethodConfig:
    """The objective and its host."""

    # batch: K + 1 views against each other; queue: MoCo v2 form; momentum: MoCo v3 form
    host: Literal["batch", "queue", "momentum"] = "batch"
    loss: Literal["cacr", "infonce"] = "cacr"  # infonce: plain, on the same views and negatives
    # t+ and t-: multiply squared distances, so they are inverses of a `temperature`
    tau_pos: Positive = 1.0  # in the weights of positives
    tau_neg: Positive = 0.9  # in the weights of negatives
    alpha: NonNegative = 1.0  # factor of the attraction
    beta: NonNegative = 1.0  # factor of the repulsion
    # conditional weights: both, only the negatives', only the positives', none (momentum: the first
    # two)
    weighting: Literal["full", "without_w1", "without_w2", "none"] = "full"
    detach_weights: bool = False  # no gradient through the weights (host=batch)
    cost: Literal["euclidean", "rbf"] = "euclidean"  # of the repulsion
    rbf_t: Positive = 2.0  # host=batch: exponent of the RBF cost
    tau_plus: Rate = 0.0  # class prior of the debiased repulsion, 0 for none
    temperature: Positive = 1.0  # host=momentum: T, divides the distances
    reduction: Literal["mean", "sum"] = "mean"  # host=momentum, Euclidean: sum as in the release
    local_keys: bool = False  # host=momentum: local crops are keys too (full mode)
    queue_size: Count = 65536  # host=queue
    in_batch_negatives: bool = True  # host=queue: queries of other images are negatives too
    replicate_cached_queue_bug: bool = False  # host=queue: see the card
    momentum: Probability = 0.999  # of the key encoder
    momentum_schedule: Literal["constant", "cosine"] = "constant"  # cosine: rises to 1
    gather: bool = True  # negatives of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    def __post_init__(self) -> None:
        changed = [name for name in ("detach_weights", "tau_plus") if getattr(self, name)]
        if self.host != "batch" and changed:
            raise ValueError(f"method.{' and method.'.join(changed)} need method.host=batch")
        if self.host == "momentum" and self.weighting in ("without_w2", "none"):
            raise ValueError("method.host=momentum has the weighting full or without_w1")
        if self.loss == "infonce" and self.weighting != "full":
            raise ValueError("method.weighting belongs to method.loss=cacr")
        if self.host == "momentum" and (self.loss, self.cost) == ("infonce", "euclidean"):
            raise ValueError("method.loss=infonce with method.host=momentum needs method.cost=rbf")
        if self.tau_plus and (self.cost == "rbf" or self.weighting in ("without_w2", "none")):
            raise ValueError("method.tau_plus needs the Euclidean cost and weighted negatives")
        if self.host == "queue" and self.cost == "rbf":
            raise ValueError("method.host=queue has the Euclidean cost only")
        if self.reduction == "sum" and (self.host != "momentum" or self.cost == "rbf"):
            raise ValueError("method.reduction=sum needs method.host=momentum, cost=euclidean")


@dataclass
class EvalConfig(WatchedEval):
    """Evaluation protocol."""

    ks: Counts = field(default_factory=lambda: [10, 20, 100, 200])
    # data.source=folder: labelled images that judge the features; none: the spread of features
    # alone
    judge: Literal["imagenet", "none"] = "imagenet"
    adam_probe_epochs: Whole = 0  # of the small-scale release's probe (there 100); 0: none
    untrained: bool = True  # also probe the encoder as it was before training (sets in memory)


@dataclass
class CacrOptim(OptimConfig):
    """Optimiser with a schedule in steps besides the common ones."""

    # fractions of training after which the learning rate is divided by ten (schedule=constant)
    milestones: list[Share] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.milestones and self.schedule != "constant":
            raise ValueError("optim.milestones need optim.schedule=constant")
        if self.milestones and (self.warmup_steps or self.warmup_epochs):
            raise ValueError("optim.milestones need optim.warmup_steps=0 and optim.warmup_epochs=0")


@dataclass
class Config(ExperimentConfig):
    """CACR experiment."""

    data: CacrData = field(default_factory=CacrData)
    optim: CacrOptim = field(default_factory=CacrOptim)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    linear: LinearOptions = field(default_factory=LinearOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        watched = self.trainer.val_every_n_steps is not None
        if self.eval.judge == "none" and (self.data.folder is None or watched):
            raise ValueError("eval.judge=none needs data.folder and no trainer.val_every_n_steps")
        self.eval.check_split(self.data.source)
        if self.data.local_views and self.method.host != "momentum":
            raise ValueError("data.local_views needs method.host=momentum")
        if self.model.zero_init_residual and self.model.pretrained != "random":
            raise ValueError("model.zero_init_residual is for model.pretrained=random")
        if self.method.local_keys and not self.data.local_views:
            raise ValueError("method.local_keys needs data.local_views > 0")
