"""What can be set; values stand in configs/one_to_k. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.evaluation.own_data import Judge, OwnData
from common.ranges import (
    Count,
    Counts,
    Interval,
    NonNegative,
    Positive,
    Probability,
    Real,
    Share,
    Whole,
    at_least,
)

Source = Literal[
    "synthetic", "emoji", "jsonl", "webdataset", "captions", "multi30k", "coco", "xflickrco", "wit"
]
BENCHMARKS = ("multi30k", "coco", "xflickrco", "wit")


@dataclass
class CrossLingualData(DataConfig):
    """Images whose text exists in several languages."""

    source: Source = (
        "jsonl"  # emoji: bundled; captions: texts alone, the pivot in the image's place
    )
    files: str | None = None  # jsonl: pattern below data.root; captions: <split> in a file's name
    shards: str | None = None  # webdataset: pattern below data.root, key.jpg and key.json a sample
    images: str | None = None  # folder of the images, below data.root
    languages: list[str] = field(default_factory=list)  # empty: sorted keys of the first line
    pivot: str = "en"
    texts_per_image: Count | None = None  # K of 1-to-K, drawn per access; None: all languages
    split: str = "train"  # of a benchmark that is trained on
    num_samples: Count = 64  # of source=synthetic, and of an epoch of source=webdataset
    train_fraction: Share = 1.0  # of the emoji or captions, drawn by the seed
    image_size: Count = 224  # height and width in pixels
    crop_scale: Interval = (0.2, 1.0)  # area range of the random resized crop
    rand_augment: bool = True  # with a horizontal flip
    max_words: Count = 40  # of a cleaned caption
    mask_probability: Probability = 0.4  # share of a text's tokens
    max_masks: Count = 12
    span_probability: Probability = 0.2
    max_span: Count = 3
    max_corrupt: Probability = 0.05  # tolerated fraction of unreadable samples


@dataclass
class ModelConfig:
    """Image tower, text and fusion encoder, projections."""

    image: str = "swin_base_patch4_window7_224"  # timm model, or conv
    image_pretrained: str = "random"  # see common.encoders.pretrained.resolve_pretrained
    image_widths: Counts = field(default_factory=lambda: [32, 64, 128, 256])  # of conv
    text: Literal["transformer", "ngrams"] = "transformer"
    text_pretrained: str = "random"
    text_config: dict[str, Any] = field(default_factory=dict)  # architecture, with random
    keep_layers: list[Whole] | None = None  # layers taken from the pretrained model; None: all
    split: Count = 6  # layers of text alone; those above it also see the image
    max_tokens: Annotated[int, at_least(2)] = 40  # of a text, with its borders
    ngram_sizes: Counts = field(default_factory=lambda: [3])  # n of the hashed n-grams
    ngram_buckets: Count = 8192
    ngram_dim: Count = 128
    ngram_width: Count = 256
    embed_dim: Count = 256  # joint space
    projection_bias: bool = False  # True: plain linear layers; False: N(0, 1/width), no bias
    temperature: Positive = 0.07  # first value; learnt within [0.001, 0.5]
    init: str | None = None  # exported folder to start from, for fine-tuning
    window: Count | None = None  # Swin's window after `init`, if data.image_size changes


@dataclass
class EvalConfig(OwnData):
    """Retrieval in every language."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.MULTILINGUAL: Judge(),
        Layout.CAPTIONS: Judge(),
    }

    benchmarks: list[str] = field(default_factory=list)  # multi30k, coco, xflickrco, wit
    languages: list[str] = field(default_factory=list)  # empty: those of the set
    split: Literal["test", "dev"] = "test"  # of emoji and captions; tune on dev
    k_test: Whole = 0  # best items that the matching head scores again; 0: cosine alone
    batch_size: Count = 256  # images or texts per forward pass


@dataclass
class TranslateConfig:
    """`make run TASK=translate`: further languages for every line of a JSONL file."""

    input: str | None = None
    output: str | None = None  # finished chunks are kept in <output>.parts
    model: str = "facebook/m2m100_1.2B"  # encoder-decoder: local folder or Hugging Face id
    source: str = "en"  # language that is translated
    languages: list[str] = field(default_factory=lambda: ["id", "es", "ru", "tr"])
    prompt: str = "{text}"  # of models without language tokens: "translate to {language}: {text}"
    batch_size: Count = 16
    max_new_tokens: Count = 64
    device: str = "auto"


@dataclass
class MethodConfig:
    """The objective."""

    # one_to_k; random_language: one text an image (with ITM: the release's cclm_easy);
    # pivot: image with pivot, pivot with another language; finetune: soft labels by image
    objective: Literal["one_to_k", "random_language", "pivot", "finetune"] = "one_to_k"
    need_divm: Real = 0.0  # divisor of the 1-to-K loss: 0 is K, < 0 is 1
    t2i_scale: NonNegative | None = None  # weight of text -> image; None: as need_divm says
    itm_weight: NonNegative = 1.0  # image-text matching; 0 leaves it out
    mlm_weight: NonNegative = 1.0  # masked language modelling on the fused states
    # the text of an image that ITM and MLM see (neg_sample_type 1, 0, 2 of the release)
    positive: Literal["aligned_least", "uniform", "least_similar"] = "aligned_least"
    vicreg: bool = False  # log VICReg's terms, which never enter the loss
    lr_mult: Positive = 2.0  # of newly initialised parameters
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    @property
    def fusion(self) -> bool:
        """Whether the fusion layers are trained."""
        return self.itm_weight > 0 or self.mlm_weight > 0

    @property
    def policy(self) -> Literal["all", "random", "pivot"]:
        """Texts of an image that a step sees."""
        policies: dict[str, Literal["all", "random", "pivot"]]
        policies = {"one_to_k": "all", "pivot": "pivot"}
        return policies.get(self.objective, "random")


@dataclass
class Config(ExperimentConfig):
    """1-to-K experiment."""

    data: CrossLingualData = field(default_factory=CrossLingualData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    translate: TranslateConfig = field(default_factory=TranslateConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of translate

    def __post_init__(self) -> None:
        super().__post_init__()
        languages, texts = self.data.languages, self.data.texts_per_image
        if len(set(languages)) != len(languages):
            raise ValueError("data.languages names a language twice")
        if self.data.source == "jsonl" and self.data.files is None:
            raise ValueError("data.source=jsonl needs data.files, such as cc3m/part_*.data")
        if self.data.source == "webdataset" and not (self.data.shards and languages):
            raise ValueError("data.source=webdataset needs data.shards and data.languages")
        if languages and texts is not None and texts > len(languages):
            raise ValueError(
                f"data.texts_per_image={texts}, but there are {len(languages)} languages"
            )
        if self.method.fusion and self.model.text == "ngrams":
            raise ValueError(
                "model.text=ngrams has no fusion layers: set method.itm_weight=0 and "
                "method.mlm_weight=0"
            )
        if self.eval.k_test and self.method.itm_weight == 0:
            raise ValueError("eval.k_test needs a matching head: set method.itm_weight")
        if self.data.source == "captions" and self.method.objective in ("pivot", "finetune"):
            raise ValueError("data.source=captions knows one_to_k and random_language only")
        if self.data.source == "captions" and (self.method.fusion or self.model.text != "ngrams"):
            raise ValueError("data.source=captions needs model.text=ngrams and no itm, no mlm")
        if self.method.objective == "pivot" and languages and self.data.pivot not in languages:
            raise ValueError(f"data.pivot={self.data.pivot} is not among data.languages")
        unknown = sorted(set(self.eval.benchmarks) - set(BENCHMARKS))
        if unknown:
            names = ", ".join(BENCHMARKS)
            raise ValueError(f"eval.benchmarks {unknown}: use some of {names}")
