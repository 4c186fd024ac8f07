"""What can be set; values stand in configs/video_qa. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.evaluation.own_data import Judge, OwnData
from common.ranges import (
    Count,
    NonNegative,
    Positive,
    Probability,
    Rate,
    Whole,
    at_least,
    not_empty,
)


@dataclass
class ModelConfig:
    """Text encoder, attention to frames, recurrent nets."""

    pretrained: str = "random"  # text encoder: Hugging Face id, folder or bundled:<name>
    config: dict[str, Any] | None = None  # architecture of a random one
    # a random encoder begins with equal queries and keys, and positions that matter little: tokens
    # attend to their likes
    alike: bool = False
    tokenizer: str | None = None  # None: that of the weights
    num_layers: Count | None = None  # lowest layers of the encoder that are used; None: all
    dropout: Rate | None = None  # of the encoder; None: its own
    head_dropout: Rate = 0.0  # of the pooled vectors before the scores
    attention: Literal["local", "global"] = (
        "local"  # frames of a sentence's own span, or all frames
    )
    time_embedding: bool = False  # tokens and frames carry a vector of their sentence's number
    # what of the attended frames goes on: attended: u alone; matched: W [h; u; h * u] of each token
    # h
    fusion: Literal["matched", "attended"] = "attended"
    pool: Literal["max", "mean"] = "max"  # over the tokens
    streams: Literal["both", "text"] = "both"  # text: without the frames (ablation)
    rnn: Literal["lstm", "gru"] = "lstm"
    hidden: Count = 300  # of a direction
    chunk: Count | None = None  # sequences that pass the encoder together; None: all
    checkpointing: bool = False  # recompute the chunks in the backward pass
    image_encoder: str = "bundled:cifar-resnet20"  # of TASK=answer and TASK=features; not trained


@dataclass
class PretrainConfig:
    """Question prediction: which question belongs to this clip and this answer?"""

    steps: Count | None = None  # None and no epochs: no pre-training
    epochs: Positive | None = None
    answer: Literal["correct", "none"] = "correct"  # none: clip alone
    distractors: Literal["clip", "show", "any"] = (
        "clip"  # questions of the same clip first, of the same show, of all
    )
    candidates: Annotated[int, at_least(2)] = 5  # A
    weights: str | None = None  # exported folder to begin with instead of a stage of its own

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("pretrain.steps and pretrain.epochs are both set; null one")
        if self.weights is not None and self.asked:
            raise ValueError(
                "pretrain.weights replaces the stage: leave pretrain.steps and pretrain.epochs out"
            )

    @property
    def asked(self) -> bool:
        """Whether there is such a stage."""
        return self.steps is not None or self.epochs is not None


@dataclass
class EvalConfig(OwnData):
    """What is measured."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.CLIPS: Judge()}

    split: Literal["test", "dev"] = "test"
    batch_size: Count = 50
    limit: Count | None = None  # questions at most
    mask_probs: list[Probability] = field(default_factory=list)  # also accuracy with masked inputs
    figures: Whole = 3  # pictures of where the model looked


@dataclass
class AnswerConfig:
    """`make run TASK=answer`: questions about your own clip."""

    run: str = "latest"  # run of this config, or a folder written by `make export`
    # JSON file: {frames, fps, objects, subtitles, questions: [{question, candidates}]}
    clip: str | None = None


@dataclass
class AnalyseConfig:
    """`make run TASK=analyse`: accuracy by question type, two checkpoints side by side."""

    runs: Annotated[list[str], not_empty] = field(default_factory=lambda: ["latest"])  # one or two
    shown: Count = 20  # questions on which the two differ


@dataclass
class PrepareConfig:
    """`make run TASK=features` and `TASK=objects`: frames of clips to vectors and to labels."""

    frames: str | None = None  # folder with a folder of pictures for each clip, at any depth
    output: str | None = None  # folder of features, or file of labels; None: in the task's folder
    detector: str = "facebook/detr-resnet-50"  # objects: any object detector of transformers
    threshold: Probability = 0.5  # objects: least probability of a label
    most: Count = 20  # objects: labels of a frame
    batch_size: Count = 32
    device: Literal["auto", "cpu", "cuda"] = "auto"


Source = Literal["tvqa", "tvqa_plus", "dramaqa", "simulated", "synthetic", "questions"]


@dataclass
class VideoData(DataConfig):
    """Clips and questions."""

    batch_size: Count = 8  # questions
    # tvqa, tvqa_plus, dramaqa: released files below the data root; simulated: photographs and
    # sentences of the bundled sets; synthetic: made-up words and colours; questions: TVQA+'s
    # questions without clips, bundled
    source: Source = "simulated"
    features: str | None = (
        None  # folder of <clip>.safetensors or an .h5 file, below the data root; None: text alone
    )
    fps: Positive = 3.0  # frames a second of the features
    feature_dim: Count = 64  # D_v of the features
    max_frames: Count = 300  # of a clip; of longer ones as many, evenly chosen
    objects: str | None = None  # file of labels in each frame (TASK=objects), below the data root
    max_objects: Whole = 20  # labels of a sentence; 0: without objects (ablation)
    max_sentences: Count = 60  # N
    max_length: Annotated[int, at_least(8)] = 70  # L, tokens of a sequence
    localised: bool = False  # only the annotated part of a clip is seen ("with time stamps")
    train_questions: Annotated[int, at_least(10)] | None = None  # that are trained on; None: all
    test_questions: Annotated[int, at_least(10)] = 1000  # of simulated clips


@dataclass
class MethodConfig:
    """Terms alongside the answer's cross-entropy, in the main stage alone."""

    contrast_weight: NonNegative = 1.0  # lambda_con; 0: no masked branch
    localisation_weight: NonNegative = 1.0  # lambda_loc; 0: no head
    mask_prob: Probability = 0.15
    mask_scope: Literal["all", "answer", "subtitle"] = "all"
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: Positive = 1.0  # tau; 0.1 goes with the cosine
    contrast_features: Literal["text", "both"] = "text"  # both: streams side by side
    stop_gradient: bool = False  # no gradient into the unmasked candidates
    head_lr: Positive | None = None  # of all but the text encoder; None: optim.lr
    warmup_share: Rate = 0.0  # of the steps of either stage; added to optim.warmup_*


@dataclass
class Config(ExperimentConfig):
    """Experiment on multiple-choice video question answering."""

    data: VideoData = field(default_factory=VideoData)
    model: ModelConfig = field(default_factory=ModelConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    analyse: AnalyseConfig = field(default_factory=AnalyseConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.alike and (self.model.config or {}).get("model_type") != "bert":
            raise ValueError(
                "model.alike is for a random encoder: set model.config with model_type: bert"
            )
        if self.model.streams == "text" and self.method.contrast_features == "both":
            raise ValueError("method.contrast_features=both needs model.streams=both")
        if self.data.localised and self.method.localisation_weight:
            raise ValueError(
                "data.localised shows the annotated part alone: set method.localisation_weight=0"
            )
