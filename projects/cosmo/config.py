"""What can be set in a COSMO experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, NonNegative, Positive, Probability, Real, Whole, at_least
from projects.cosmo.interleaved.options import CaptionUse

Kind = Literal["image_text", "video_text", "interleaved_image", "interleaved_video", "instruction"]
KINDS = ("image_text", "video_text", "interleaved_image", "interleaved_video", "instruction")


@dataclass
class CosmoData(DataConfig):
    """What is trained on; batches of the kinds come in turn.

    `batch_size` is B of the paper: batches of pairs of pictures and texts have 2 B samples, others
    max(4, B / 2).
    """

    source: Literal["synthetic", "bundled", "shards"] = "synthetic"
    kinds: list[Kind] = field(default_factory=lambda: ["image_text"])
    # shards: kind -> tar shards below data.root (braces and lists allowed); instruction: a JSON
    # file
    shards: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, NonNegative] = field(default_factory=dict)  # of the loss of a kind; none: 1
    max_caption: Annotated[int, at_least(3)] = 32  # tokens: the picture's, the end's and a word's
    max_document: Count = 128  # tokens of a window
    max_images: Count = 3  # of a document
    clips: Annotated[int, at_least(2)] = 3  # largest number of adjacent clips
    frames: Count = 3  # of a clip
    speed: Positive = 5.0  # of stored videos
    video_seconds: Positive = 10.0  # shards: what is read of a video with one text
    caption_use: CaptionUse = "noisy_only"
    blank_prob: Probability = 0.5  # a blank before a caption
    threshold: Real = 0.24  # least similarity of picture and sentence
    augment: bool = False  # crops, flips, AutoAugment
    normalise: Literal["imagenet", "tower"] = "imagenet"  # mean and deviation of pixels
    # bundled: photographs of ten classes with their class words, or drawings with names and
    # phrasings
    pictures: Literal["photographs", "drawings"] = "photographs"
    photos: Annotated[int, at_least(10)] = (
        6000  # bundled: training photographs, equally many of each class
    )
    cache: bool = True  # bundled: tokens of the pictures are computed once, before training
    shuffle_images: bool = False  # control: every caption with the picture of another one
    max_corrupt: Probability = 0.05  # share of samples that may be unreadable

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError("data.kinds names each kind once, and at least one")
        unknown = (set(self.shards) | set(self.weights)) - set(KINDS)
        if unknown:
            raise ValueError(
                f"data.shards and data.weights are by kind ({', '.join(KINDS)}): {unknown}"
            )
        if self.source == "shards" and set(self.kinds) - set(self.shards):
            raise ValueError(f"data.shards lacks {sorted(set(self.kinds) - set(self.shards))}")
        if self.augment and self.cache and self.source == "bundled":
            raise ValueError("data.augment changes pictures at every access: set data.cache=false")

    def batch_of(self, kind: str) -> int:
        """Samples per device in a batch of a kind.

        >>> CosmoData(batch_size=64).batch_of("image_text"), CosmoData().batch_of("instruction")
        (128, 16)
        """
        return 2 * self.batch_size if kind == "image_text" else max(4, self.batch_size // 2)


@dataclass
class AttentionConfig:
    """Sizes of attention blocks; `model.compression` divides those of cross-attention."""

    heads: Count = 8
    dim_head: Count = 64
    ff_mult: Count = 4


@dataclass
class ModelConfig:
    """Two frozen towers, and what is trained between them."""

    vision: str = "bundled:dual-encoder"  # open_clip's format; see common.encoders.pretrained
    language: str = "bundled:causal-lm"  # any causal language model of transformers
    # nf4: four bits, computed in bfloat16; needs the extra "large" and a GPU
    language_dtype: Literal["float32", "float16", "bfloat16", "nf4"] = "float32"
    unimodal_depth: Whole = 2  # U: layers without cross-attention
    interval: Count = 1  # of cross-attention from layer U on
    compression: Count = 1  # c
    immediate: bool = True  # only_attend_immediate_media
    qk_norm: bool = False
    cross: AttentionConfig = field(default_factory=AttentionConfig)
    resampler: AttentionConfig = field(default_factory=AttentionConfig)
    resampler_depth: Count = 6
    num_latents: Count = 64  # media tokens; the contrastive query is one more
    pooling: AttentionConfig = field(default_factory=AttentionConfig)
    latent_dim: Count = 512
    # layers below which texts are read for the contrast; None: U. Above U: in a pass without
    # pictures
    text_depth: Count | None = None
    mask_padding: bool = True  # of text pooling; the release reads padding
    # embeddings of tokens: none, the new special ones, all (instruction tuning)
    trained_rows: Literal["none", "new", "all"] = "none"
    init_from: str | None = None  # folder of make export: its trained tensors are the start

    def __post_init__(self) -> None:
        if self.cross.dim_head % self.compression:
            raise ValueError(
                f"model.compression={self.compression} must divide"
                f" model.cross.dim_head={self.cross.dim_head}"
            )


@dataclass
class ShotSet:
    """A set of the few-shot table."""

    name: str
    task: Literal["caption", "vqa", "retrieval", "classification"]
    test: str  # JSON lines below data.root; see projects/cosmo/table.py
    train: str | None = None  # where demonstrations come from
    limit: Count = 5000


@dataclass
class OfficialFiles:
    """``TASK=few_shot_rows``: files of a public set that become the JSON lines of a `ShotSet`."""

    output: str | None = None  # JSON lines, below data.root; its folder holds the pictures
    karpathy: str | None = None  # captions of COCO or Flickr30k
    split: str = "test"  # of them
    folder: str = ""  # of their pictures
    questions: str | None = None  # VQA's two files, or others in their form
    annotations: str | None = None
    image: str = "{:012d}.jpg"  # place of the picture of a question, by its number


@dataclass
class EvalConfig(OwnData):
    """What is measured, and how texts are written."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.CAPTIONS: Judge()}

    split: Literal["dev", "test"] = "test"
    items: Count = 500  # held-out pictures with their names
    # pictures that a name is ranked among; of photographs one of each class
    candidates: Annotated[int, at_least(2)] = 32
    batch_size: Count = 256
    written: Whole = 64  # captions that are written
    num_beams: Count = 5
    length_penalty: Real = -2.0
    max_new_tokens: Count = 20
    vqa_tokens: Count = 5
    shots: list[Whole] = field(default_factory=lambda: [0, 4, 8, 16, 32])
    shot_seed: Whole = 42
    pool: Count = 2048  # training examples that demonstrations are drawn from
    sets: list[ShotSet] = field(default_factory=list)
    official: OfficialFiles = field(default_factory=OfficialFiles)


@dataclass
class CaptionConfig:
    """``TASK=caption`` and ``TASK=few_shot``."""

    run: str | None = None  # folder of make export
    inputs: list[str] = field(default_factory=list)  # pictures
    demonstrations: list[str] = field(default_factory=list)  # picture=text
    question: str | None = None


@dataclass
class VideoConfig:
    """``TASK=build_video``: clips of videos with one caption each by a language model."""

    inputs: str | None = None  # JSON lines: {"video": folder of frames or file, "clips": [{...}]}
    output: str = "interleaved"  # folder of <video>.json
    model: str = "bundled:causal-lm"  # writes the captions
    fps: Positive = 1.0  # of folders of frames
    speed: Positive = (
        1.0  # of the given videos: clips are in seconds of the event, as data.speed reads them
    )
    sample_fps: Positive = 1.0  # frames that shots are found by
    most_shots: Count = 20
    penalty: NonNegative = 0.05  # of a further shot
    max_new_tokens: Count = 48
    temperature: Positive = 0.7
    top_p: Probability = 0.9
    # words that the dual encoder chooses tags from, for clips that come without
    tags: list[str] = field(default_factory=list)
    num_tags: Count = 3


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
