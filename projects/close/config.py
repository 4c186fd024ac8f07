"""What can be set in a CLOSE experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig, OptimConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, NonNegative, NonNegatives, Positive, Real, Share, Whole, at_least

__all__ = ["CaptionConfig", "CloseData", "EvalConfig", "GenerateConfig", "ServerConfig"]

TaskName = Literal["s_cap", "m_cap", "ve", "vqa", "evqa", "news"]


@dataclass
class CloseData(DataConfig):
    """Examples of one of the tasks."""

    # bundled: captions of photographs and drawings; official: the public sets below data.root;
    # text: the lines of `text_file`, alone; synthetic: made up
    source: Literal["synthetic", "bundled", "official", "text"] = "bundled"
    # captions from a caption itself or from another one of the image, entailment, questions, the
    # same with explanations in place of captions, captions of news with an article
    task: TaskName = "s_cap"
    inputs: Literal["text", "image"] = "text"  # training inputs; image: the upper bound
    splits: list[str] = field(default_factory=lambda: ["train"])  # official, captions: + restval
    epoch_size: Count = 200_000  # examples of an epoch, resampled for each
    epoch_share: Share = 1.0  # share of all examples that an epoch has at most
    max_context: Count = 64  # tokens of a question, a hypothesis or an article
    max_target: Count = 32  # tokens of a target in training
    # text: a file with one sentence per line, below data.root, or one that TASK=generate wrote
    text_file: str | None = None
    min_words: Count = 3  # text: shorter lines are left out
    max_words: Count = 30
    replace: dict[str, str] = field(
        default_factory=dict
    )  # text: words such as names -> what stands there
    photos: Count = 6000  # bundled: captions of photographs, drawn by the seed
    drawings: bool = True  # bundled: two captions of each drawing's name as well

    def __post_init__(self) -> None:
        if (self.source == "text") != (self.text_file is not None):
            raise ValueError("data.source=text and data.text_file belong together")
        if self.source == "text" and (self.inputs == "image" or self.task != "s_cap"):
            raise ValueError(
                "data.source=text has no images: set data.inputs=text, data.task=s_cap"
            )
        if self.source == "bundled" and self.task not in ("s_cap", "m_cap"):
            raise ValueError("data.source=bundled has captions alone: set data.task=s_cap")


@dataclass
class EvalConfig(OwnData):
    """Decoding and measures."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.CAPTIONS: Judge()}

    split: Literal["dev", "test"] = "test"
    inputs: Literal["image", "text"] = "image"
    limit: Count | None = 20_000  # examples, the first ones; None: all
    num_beams: Count = 5
    max_new_tokens: Count = 32
    batch_size: Count = 256
    own_text: Count | None = (
        None  # bundled: so many held-out captions decoded from their own vectors
    )
    noises: NonNegatives = field(default_factory=lambda: [0.0, 0.1, 0.2, 0.3])  # TASK=gap
    offsets: list[Real] = field(default_factory=lambda: [-0.5, 0.0, 0.5, 1.0])  # TASK=gap
    items: Count = 400  # TASK=gap: examples that the curve is measured on


@dataclass
class CaptionConfig:
    """`make run TASK=caption`: text for your own pictures."""

    run: str | None = None  # folder written by `make export`; another one is another style
    inputs: list[str] = field(default_factory=list)  # pictures
    texts: list[str] = field(default_factory=list)  # sentences in place of pictures
    context: str | None = None  # the question, hypothesis or article that goes with each


@dataclass
class GenerateConfig:
    """`make run TASK=generate`: a training set written by a language model, in chunks."""

    # captions from two keywords; captions in the first person; captions in the words of characters
    kind: Literal["captions", "egocentric", "character"] = "captions"
    model: str | None = None  # any causal or encoder-decoder model; or generator.endpoint
    output: str = "texts.json"  # a list of strings
    count: Count = 1000  # captions, or of the rewritten kinds outputs
    instruction: str | None = None  # None: that of the kind
    # captions: JSON lines {"keywords": [...], "caption": ...}; others: {"source", "target"}; None:
    # ours
    demonstrations: str | None = None
    num_demonstrations: Count = 20  # 50 for GPT-J
    keywords: str | None = (
        None  # captions: a file of words or sentences; None: nouns of the drawings
    )
    draw: Literal["uniform", "unigram"] = "uniform"  # of the keywords
    sources: str | None = None  # others: a file of captions to rewrite, one a line
    characters: list[str] = field(default_factory=list)  # character: names; None of ours is in them
    stories: str | None = (
        None  # character: a file of excerpts, one a line, that stand in the prompt
    )
    temperature: Positive = 1.0
    top_p: Share = 1.0
    max_new_tokens: Count = 64
    best_of: Count = 3  # the likeliest of so many draws is kept
    frequency_penalty: Real = 2.0  # times the number of times that a token was written
    presence_penalty: Real = 1.0  # once for every token that was written
    ngram_filter: bool = False  # drop texts with n-grams that many others have
    batch_size: Count = 16
    device: str = "auto"


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
        needs_statistics = self.adapter in ("shift", "linear", "covariance")
        if needs_statistics != (self.statistics is not None):
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
