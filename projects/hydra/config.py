"""What can be set in a Hydra experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.families.images.config import CIFAR10_STD_OF_PIXELS, FrozenEval, ImageSetData

from common.ranges import (  # isort: skip
    Count,
    Counts,
    Interval,
    NonNegative,
    NonNegatives,
    Positive,
    Probability,
    Rate,
    Real,
    Share,
    at_least,
)


@dataclass
class HydraData(ImageSetData):
    """Labelled images, augmented, with a drawn partner class each."""

    source: Literal["synthetic", "bundled", "cifar10", "cifar100", "imagenet", "folder"] = "bundled"
    folder: str | None = None  # source=folder: {train,val}/<class>/* below data.root
    num_classes: Annotated[int, at_least(2)] = 10
    test_limit: Count | None = None  # test images, class-balanced, always the same; None: all
    views: Literal[1, 2] = 1  # two: queries from view 1, keys from view 2
    repeats: Count = 1  # copies of a sample, augmented apart; an epoch is that many times as long
    samples_per_class: Annotated[int, at_least(2)] | None = None  # K of the PK sampler; None: off
    # multiview, three_augment: of FFCV, as released
    augmentation: Literal["crop", "simclr", "randaugment", "dino", "multiview", "three_augment"] = (
        "crop"
    )
    crop_scale: Interval = (0.5, 1.0)
    erase_prob: Probability = 0.0  # random erasing with noise per pixel (randaugment)
    std: tuple[Positive, Positive, Positive] = CIFAR10_STD_OF_PIXELS

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source == "folder") != (self.folder is not None):
            raise ValueError("data.folder belongs to data.source=folder: give both or neither")
        if self.test_limit is not None and self.source in ("folder", "imagenet"):
            raise ValueError(f"data.test_limit is for sets in memory, not for {self.source}")
        if self.samples_per_class is not None:
            if self.batch_size % self.samples_per_class:
                raise ValueError("data.samples_per_class must divide data.batch_size")
            if self.repeats > 1:
                raise ValueError("set one of data.repeats and data.samples_per_class, not both")
            if self.batch_size // self.samples_per_class > self.num_classes:
                raise ValueError("batch_size / samples_per_class exceeds data.num_classes")


@dataclass
class ModelConfig:
    """Encoder and projector."""

    backbone: str = "convnet"  # convnet, or a timm model such as resnet18, resnet50, vit_*
    stem_type: str | None = None  # timm ResNets: deep, ...; None: the model's own
    output_stride: Count | None = None  # timm ResNets: 8, 16 or 32; None: the model's own
    widths: Counts = field(default_factory=lambda: [24, 48, 128])  # of convnet
    pretrained: str = "random"  # see common.encoders.resolve_pretrained; timm models
    init_from: str | None = None  # exported folder: its encoder is the starting point
    projector_dim: Count = 2048  # hidden width
    out_dim: Count = 256  # D, dimension in which pairs are compared


@dataclass
class GateConfig:
    """The feature filter: from a pair of classes to a vector in [0, 1]^D."""

    type: Literal["basic", "open", "gumbel", "stochastic"] = "basic"
    in_dim: Count = 512  # label embedding
    mlp_dim: Count = 1024  # hidden width
    fuse: bool = True  # one gate of the mean embedding; False: product of two gates
    penalty: NonNegative = 0.0  # weight of the mean binary entropy (basic, gumbel)
    sigma: Positive = 0.5  # noise of the stochastic gate
    open_penalty: NonNegative = 1e-6  # weight of the expected number of open stochastic gates
    temperature: Positive = 1.0  # of the Gumbel gate


@dataclass
class PairsConfig:
    """Which class each sample is to agree with."""

    type: Literal["arbitrary", "identical", "distinct"] = "arbitrary"


@dataclass
class HeadConfig:
    """Online linear classifier, for monitoring."""

    weight: NonNegative = 1.0  # of its cross entropy; 0 builds none
    sup_loss: bool = False  # let its gradient reach the encoder
    label_smoothing: Rate = 0.0
    # method.objective=cross_entropy: a of Beta(a, a), by which images and labels are mixed; of both,
    # one is drawn for each batch; 0: off
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0


@dataclass
class MethodConfig:
    """The objective."""

    objective: Literal["pairs", "supcon", "simclr", "cross_entropy"] = "pairs"
    temperature: Positive = 0.1  # divides the similarities
    learn_temperature: bool = False  # 1 / temperature is then kept in [1, 100]
    exclude_self: bool = True  # one view: a sample is no positive of itself; False: released code
    renormalise_after_gate: bool = False  # cosine inside the subspace, as the paper has it
    alpha: Real | None = None  # start of a learnable weight that subtracts the open similarity
    row_mean: bool = False  # mean over rows of their positives' mean (FastSSL); False: over pairs
    frozen_simclr: bool = False  # train SimCLR first, then only the gate on its frozen features

    def __post_init__(self) -> None:
        if self.frozen_simclr and self.objective != "pairs":
            raise ValueError("method.frozen_simclr trains a gate: set method.objective=pairs")


@dataclass
class EvalConfig(FrozenEval):
    """Evaluation protocol."""

    ks: Counts = field(default_factory=lambda: [20])
    probe_l2: NonNegatives = field(default_factory=lambda: [10.0**e for e in range(-4, 1)])
    batch_size: Count = 500
    precision_at: Count = 20  # k of the subspace precision
    max_pairs: Count = 200  # class pairs of the subspace precision; more are subsampled
    hierarchy: str | None = None  # text file: path root/.../class per line; None: CIFAR-10's
    transfer: list[str] = field(default_factory=list)  # further labelled sets, by name
    transfer_protocols: list[str] = field(default_factory=lambda: ["linear_probe", "few_shot"])
    root: str | None = None  # folder of these sets; None: data.root


@dataclass
class Config(ExperimentConfig):
    """Hydra experiment."""

    data: HydraData = field(default_factory=HydraData)
    model: ModelConfig = field(default_factory=ModelConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    online_head: HeadConfig = field(default_factory=HeadConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    layer_decay: Share = 1.0  # factor of the learning rate from one layer to the one below

    def __post_init__(self) -> None:
        super().__post_init__()
        self.eval.check_split(self.data.source)
        if self.method.objective == "simclr" and (self.data.views, self.data.repeats) != (2, 1):
            raise ValueError("method.objective=simclr needs data.views=2 and data.repeats=1")
        head = self.online_head
        if self.method.objective == "cross_entropy" and not (head.weight and head.sup_loss):
            raise ValueError("method.objective=cross_entropy needs online_head.sup_loss=true")
        if self.method.objective != "cross_entropy" and (head.mixup or head.cutmix):
            raise ValueError(
                "online_head.mixup and online_head.cutmix need method.objective=cross_entropy: pairs"
                " are of one class each"
            )
        if self.layer_decay != 1.0 and self.model.backbone == "convnet":
            raise ValueError("layer_decay needs a timm model, model.backbone is convnet")
