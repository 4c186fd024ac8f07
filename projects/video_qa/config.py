"""What can be set; values stand in configs/video_qa. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Whole, at_least
from projects.video_qa.options import (
    AnalyseConfig,
    AnswerConfig,
    EvalConfig,
    ModelConfig,
    PrepareConfig,
    PretrainConfig,
)

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
    """Terms beside the answer's cross-entropy, in the main stage alone."""

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
