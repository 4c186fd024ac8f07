"""Config sections that experiments on images with texts share; nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, Interval, Positive, Probability, Share, at_least

ORIGINAL = "original"  # the caption of the CSV or of the shard


@dataclass
class ImageTextData(DataConfig):
    """Images with one text or several: rewrites, languages, alternative captions."""

    # scenes: two bundled drawings each; pool: bundled drawings; cifar10: bundled photographs with
    # made-up captions
    source: Literal["synthetic", "scenes", "pool", "cifar10", "csv", "webdataset"] = "csv"
    captions: str | None = None  # CSV path,caption without header, below data.root
    images: str | None = None  # folder of the CSV's image paths, below data.root; None: the CSV's
    shards: str | None = None  # webdataset pattern such as laion/{00000..41407}.tar
    num_samples: Count | None = None  # samples of a stream, of scenes or a synthetic set per epoch
    # texts of an image: the caption, then one of each further source
    texts: list[str] = field(default_factory=lambda: [ORIGINAL])
    image_size: Count = 224  # input of the image tower in pixels
    crop_scale: Interval = (0.5, 1.0)  # area range of the random resized crop
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # of training crops
    eval_interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # of images that are judged
    normalize: Literal["imagenet", "clip"] = "imagenet"  # channel mean and deviation
    train_fraction: Share = 1.0  # share of the pool's training drawings, drawn by the seed
    cache_size: Count = 36  # side of cached pool images in pixels, at most twice image_size
    max_corrupt: Probability = 0.05  # tolerated fraction of unreadable samples
    right_words: Probability = 0.25  # cifar10: share of captions with the word of the class
    wrong_words: Probability = 0.25  # cifar10: with the word of another class; the rest has none

    def __post_init__(self) -> None:
        if self.right_words + self.wrong_words > 1:
            raise ValueError("data.right_words and data.wrong_words are shares of all captions")
        if self.texts[:1] != [ORIGINAL] or len(set(self.texts)) != len(self.texts):
            raise ValueError(f"data.texts must begin with '{ORIGINAL}' and name each source once")

    @property
    def text_sources(self) -> list[str]:
        """Sources alongside the caption that are in use, in order."""
        return self.texts[1:]

    def check_source(self) -> None:
        """Refuse a source without its files.

        Raises:
            ValueError: no CSV or no shards named.
        """
        if self.source == "csv" and self.captions is None:
            raise ValueError("data.source=csv needs data.captions, the CSV file of the pairs")
        if self.source == "webdataset" and self.shards is None:
            raise ValueError("data.source=webdataset needs data.shards")


@dataclass
class TwoTowers:
    """Two towers and the logit scale."""

    vision: str | None = None  # own image tower: qknorm_vit_s16 | qknorm_vit_b16 | qknorm_vit_l16
    text: dict[str, Any] = field(default_factory=dict)  # sizes of the text tower; empty: CLIP's
    embed_dim: Count = 512  # joint space, with vision
    open_clip: Any = None  # instead of vision: name or config of an open_clip model
    official_init: bool = False  # PyTorch's default init in QK-norm blocks, as in LaCLIP's release
    pretrained: str = "random"  # see common.encoders.pretrained.resolve_pretrained
    logit_scale_init: Positive = 1 / 0.07  # first multiplier
    max_logit_scale: Annotated[float, at_least(1)] = (
        100.0  # clamp after every step; the lower bound is 1
    )
    activation_checkpointing: bool = False  # recompute blocks in the backward pass

    def __post_init__(self) -> None:
        if not 1 <= self.logit_scale_init <= self.max_logit_scale:
            raise ValueError("model.logit_scale_init must be between 1 and model.max_logit_scale")

    def check_towers(self) -> None:
        """Refuse two descriptions of the towers, or none.

        Raises:
            ValueError: see above.
        """
        if (self.vision is None) == (self.open_clip is None):
            raise ValueError("set exactly one of model.vision and model.open_clip")


@dataclass
class ImageTextEval(OwnData):
    """Zero-shot classification and retrieval."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.CAPTIONS: Judge(), Layout.CLASSES: Judge()}

    # imagenet, food101, ...; see common.data.image.benchmarks.IMAGE_SETS
    datasets: list[str] = field(default_factory=list)
    root: str | None = None  # folder of these sets; None: data.root
    # of ImageNet and its shifted versions, other sets keep theirs (but for clip_baselines and mofi);
    # simple: LaCLIP's 7 sentences, openai: CLIP's 80
    templates: Literal["simple", "openai"] = "simple"
    # zeroshot, few_shot, knn, linear_probe; of some sets alone: imagenet:knn,
    # downstream:linear_probe
    protocols: list[str] = field(default_factory=lambda: ["zeroshot"])
    validate: str | None = None  # set of trainer.val_every_n_steps; chooses the checkpoint
    batch_size: Count = 256  # images or texts per forward pass
    split: Literal["test", "dev"] = "test"  # of the pool; tune on dev
