"""What can be set in a SepCLR experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import DataConfig, ExperimentConfig
from common.evaluation.own_data import OwnData
from common.families.images.config import ColourChanges

from common.ranges import (  # isort: skip
    Count,
    Counts,
    Degrees,
    Interval,
    NonNegative,
    Positive,
    Probability,
    at_least,
)


@dataclass
class SepclrData(ColourChanges, DataConfig):
    """A background and a target set, and the augmentation of their samples."""

    # digits: bundled CIFAR-10 images, scikit-learn's digits added to half of them; volumes: two
    # folders of 3-D images; the others in their official layouts
    source: Literal[
        "synthetic", "digits", "cifar_mnist", "celeba", "chexpert", "odir", "dsprites", "volumes"
    ] = "digits"
    limit: Annotated[int, at_least(2)] = 2400  # of synthetic, digits, dsprites; half are targets
    test_limit: Annotated[int, at_least(2)] = 600
    folder: str = "volumes"  # of source=volumes, below data.root
    image_size: Count = 16  # side of the training crops in pixels (voxels)
    eval_size: Count | None = None  # side of un-augmented images; None: image_size
    crop_scale: Interval = (0.4, 1.0)  # area of the crop; of volumes its edge
    flip_prob: Probability = 0.0
    vertical_flip_prob: Probability = 0.0
    rotation: Degrees = 0.0  # largest angle in degrees
    noise: NonNegative = 0.0  # standard deviation of Gaussian noise
    noise_prob: Probability = 1.0  # of noise in an image; volumes always have it
    rescale: Literal["none", "minmax"] = "none"  # minmax: fixed scale of the released ODIR

    def __post_init__(self) -> None:
        if self.limit % 2 or self.test_limit % 2:
            raise ValueError("data.limit and data.test_limit must be even")

    @property
    def plain_size(self) -> int:
        """Side of un-augmented images."""
        return self.eval_size or self.image_size


@dataclass
class ModelConfig:
    """Two encoders of one shape, each with its own projector."""

    # convnet (strides), pooled_convnet (max pooling), convnet3d, sprites, or a torchvision ResNet
    backbone: str = "pooled_convnet"
    widths: Counts = field(default_factory=lambda: [24, 48, 96])  # of the conv nets
    cifar_stem: bool = False  # ResNets: 3x3 stride-1 first convolution, no max pooling
    pretrained: str = "random"  # see common.encoders.resolve_pretrained
    rep_dim: Count | None = 16  # linear layer on the features; None: the features themselves
    hidden_dim: Count = 64  # of the projectors
    common_dim: Count = 16  # of the projected common code
    salient_dim: Count = 16  # of the projected salient code
    head_norm: Literal["batch", "none"] = "batch"
    decoder_widths: Counts = field(default_factory=lambda: [48, 24, 24])  # objective=vae
    sync_batchnorm: bool = False  # statistics over all GPUs


Leakage = Literal["kjem", "none", "mmd", "correlation", "vclub"]


@dataclass
class MethodConfig:
    """The objective."""

    # supervised: each salient dimension follows one attribute; simclr: one encoder; vae: cVAE
    objective: Literal["sepclr", "supervised", "simclr", "vae"] = "sepclr"
    bandwidth: Positive = 0.5  # tau, squared, of the kernels on codes
    temperature: Positive = 0.5  # divides the cosines (objective=simclr)
    common_uniformity: NonNegative = 2.0  # weight inside the common term
    salient_weight: NonNegative = 10.0  # beta_t
    background_weight: NonNegative = 10.0  # beta_r, pulls salient codes of the background to 0
    leakage_weight: NonNegative = 10.0  # lambda
    leakage: Leakage = "kjem"  # what is minimised to make common and salient codes independent
    attributes: list[str] = field(default_factory=list)  # supervised: factor of each dimension
    discrete: list[str] = field(default_factory=list)  # those of them that are classes
    attribute_bandwidth: Positive = 0.025  # squared, on continuous attributes
    kl_weight: NonNegative = 1.0  # vae
    gather: bool = True  # terms over the samples of all ranks

    def __post_init__(self) -> None:
        if (self.objective == "supervised") != bool(self.attributes):
            raise ValueError("method.attributes belongs to method.objective=supervised: set both")
        if not set(self.discrete) <= set(self.attributes):
            raise ValueError("method.discrete must be a part of method.attributes")


@dataclass
class EvalConfig(OwnData):
    """Probes of the frozen codes."""

    split: Literal["test", "dev"] = "test"  # of source=digits; dev: held-out training images
    batch_size: Count = 500  # samples per forward pass
    balanced: bool = False  # balanced accuracy
    standardize: bool = True  # probes on features of unit deviation; scikit-learn's default is off
    domain_from_heads: bool = False  # X-versus-Y probe on projected codes
    untrained: bool = True  # the same probes on the encoders before training


@dataclass
class Config(ExperimentConfig):
    """SepCLR experiment."""

    data: SepclrData = field(default_factory=SepclrData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        volumes = self.data.source == "volumes"
        if volumes != (self.model.backbone == "convnet3d"):
            raise ValueError("data.source=volumes needs model.backbone=convnet3d, and only that")
        if volumes and self.method.objective == "vae":
            raise ValueError("method.objective=vae decodes images, not volumes")
        if self.eval.split == "dev" and self.data.source != "digits":
            raise ValueError("eval.split=dev is a part of data.source=digits")
        attributes = self.method.attributes
        if attributes and self.model.salient_dim != len(attributes):
            raise ValueError(
                f"model.salient_dim={self.model.salient_dim}, but method.attributes names "
                f"{len(attributes)}: one dimension for each"
            )
