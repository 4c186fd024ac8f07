"""Config sections that experiments on images share; nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from common.config import DataConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import (
    Count,
    Counts,
    Interval,
    NonNegative,
    NonNegatives,
    Positive,
    Probability,
    Real,
    Share,
    between,
)

# bundled: 10,000 CIFAR-10 images of the repository; the others in their official layouts
ImageSource = Literal[
    "synthetic",
    "bundled",
    "cifar10",
    "cifar100",
    "stl10",
    "tiny_imagenet",
    "imagenet100",
    "imagenet",
]
IN_MEMORY = ("synthetic", "bundled", "cifar10", "cifar100", "stl10")

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
# Two deviations of CIFAR-10 are in use, and each paper keeps that of its code: the mean of the
# images' own deviations (CACR's release, the reference of DCL) and that of all pixels (SimLAP's
# release). The second is a fifth larger, so the images that an encoder sees have less contrast.
CIFAR10_STD_OF_IMAGES = (0.2023, 0.1994, 0.2010)
CIFAR10_STD_OF_PIXELS = (0.2470, 0.2435, 0.2616)

# brightness, contrast, saturation, hue, as torchvision takes them
Jitter = tuple[NonNegative, NonNegative, NonNegative, Annotated[float, between(0, 0.5)]]


@dataclass
class ImageSetData(DataConfig):
    """A labelled image set as an encoder sees it; projects name the sources that they take."""

    source: str = "bundled"
    image_size: Count = 32  # input of the encoder in pixels
    cache_size: Count | None = None  # side of the cached images, at most twice image_size
    limit: Count | None = (
        None  # training images, class-balanced, drawn by the seed (sets in memory)
    )
    crop_scale: Interval = (0.08, 1.0)  # area range of the random resized crop
    # images that are judged: shorter side before the centre crop (None: image_size), and how it is
    # made
    eval_resize: Count | None = None
    eval_interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[Real, Real, Real] = CIFAR10_MEAN
    std: tuple[Positive, Positive, Positive] = CIFAR10_STD_OF_IMAGES

    def __post_init__(self) -> None:
        if self.cache_size is not None and self.cache_size > 2 * self.image_size:
            raise ValueError("data.cache_size must be at most twice data.image_size")
        if self.eval_resize is not None and self.eval_resize < self.image_size:
            raise ValueError("data.eval_resize must be at least data.image_size, which is cut out")
        if self.limit is not None and self.source not in IN_MEMORY:
            raise ValueError(f"data.limit is for sets in memory, not for {self.source}")


@dataclass
class ColourChanges:
    """Colour part of SimCLR's augmentation, for data sections."""

    jitter: Jitter = (0.4, 0.4, 0.4, 0.1)  # of torchvision
    jitter_prob: Probability = 0.8
    grey_prob: Probability = 0.2


@dataclass
class ProjectedModel:
    """An encoder and the heads whose outputs are contrasted in its place."""

    # convnet | small_alexnet | a ResNet of torchvision | timm/<name>
    backbone: str = "resnet18"
    widths: Counts = field(default_factory=lambda: [32, 64, 128])  # convnet
    cifar_stem: bool = False  # ResNets: 3x3 stride-1 first convolution, no max pooling
    freeze_patch_embed: bool = False  # ViT: MoCo v3's stop-grad-conv1
    pretrained: str = "random"  # see common.encoders.pretrained.resolve_pretrained
    projector: list[Count] = field(default_factory=lambda: [512])  # hidden widths
    out_dim: Count = 128  # dimension of the contrasted embeddings
    head_norm: Literal["batch", "layer", "none"] = "batch"  # of projector and predictor
    projector_last_norm: bool = False  # also normalise the projector's output
    projector_last_affine: bool = True  # scale and shift of that norm
    sync_batchnorm: bool = False  # statistics over all GPUs


@dataclass
class PredictedModel(ProjectedModel):
    """The same for hosts whose projections also pass a predictor."""

    predictor: list[Count] = field(default_factory=lambda: [512])  # hidden widths


@dataclass
class LinearOptions:
    """Linear evaluation: a classifier on a frozen encoder, trained by `optim` on augmented images.

    Batches, length and devices are those of `data` and `trainer`, as of any training; the settings
    of the method are not read.
    """

    train: bool = False  # train the classifier instead of the method
    encoder: str | None = None  # exported folder whose encoder is judged; None: model.pretrained
    augment: Literal["crop", "views"] = "crop"  # random crops and flips; as the method's views
    crop_scale: Interval = (0.08, 1.0)  # of augment=crop
    init_std: NonNegative = 0.0  # of the classifier's weights
    # fractions of training after which the learning rate is divided by ten
    # (optim.schedule=constant);
    # empty: those of optim, if it has any
    milestones: list[Share] = field(default_factory=list)


@dataclass
class FrozenEval(OwnData):
    """kNN vote and linear probe on frozen features."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.CLASSES: Judge()}

    split: Literal["test", "dev"] = "test"  # dev: held-out training images, to tune on
    ks: Counts = field(default_factory=lambda: [20, 200])  # neighbourhood sizes
    items_k: Count = 20  # neighbours of the primary metric and of galleries, one of ks
    knn_temperature: Positive = 0.07  # of the weighted vote
    linear_probe: bool = True
    probe_l2: NonNegatives = field(default_factory=lambda: [10.0**e for e in range(-6, 3)])
    batch_size: Count = 512  # images per forward pass

    def __post_init__(self) -> None:
        if self.items_k not in self.ks:
            raise ValueError(f"eval.items_k={self.items_k} must be one of eval.ks={self.ks}")

    def check_split(self, source: str) -> None:
        """Refuse the development split of sets that have none.

        Raises:
            ValueError: split=dev of another set than the bundled one.
        """
        if self.split == "dev" and source != "bundled":
            raise ValueError("eval.split=dev is a part of data.source=bundled")


@dataclass
class WatchedEval(FrozenEval):
    """Also a linear classifier alongside a training without labels (`KnnValidatedModule`)."""

    online_probe: bool = False  # train it on the detached features of every batch
