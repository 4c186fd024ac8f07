"""What can be set; values stand in configs/space2. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, NonNegative, Positive, Rate, at_least, not_empty

View = Literal["D", "I", "S", "V", "DI", "IS", "SV", "DIS", "ISV", "DISV"]
TEN: tuple[View, ...] = ("D", "I", "S", "V", "DI", "IS", "SV", "DIS", "ISV", "DISV")


@dataclass
class DialogData(DataConfig):
    """Dialogues with semantic trees, and dialogues without."""

    # bundled: SGD and 100 intents of CLINC150, and SLURP without its labels; corpora: folders of
    # train.json below data.root; synthetic: made up
    source: Literal["synthetic", "bundled", "corpora"] = "bundled"
    labelled: str = "AnPreDial"  # corpora: folder of one folder a corpus
    unlabelled: str = "UnPreDial"
    corpora: list[str] = field(default_factory=list)  # labelled ones; []: all of the source
    in_turn: bool = True  # corpora one after the other; False: their batches in random order
    most: Count | None = None  # examples of a corpus in an epoch at most
    batch_nolabel: Count = 32  # unlabelled examples of a step of learning=semi
    max_length: Annotated[int, at_least(8)] = 256  # tokens of a dialogue; the earliest are cut
    max_turns: Annotated[int, at_least(1)] = 16  # utterances


@dataclass
class ModelConfig:
    """Encoder and sub-spaces."""

    pretrained: str = "bundled:text-encoder"  # a BERT, or a folder that this project exported
    config: dict[str, Any] | None = None  # with random: model_type bert and its fields
    dropout: Rate | None = (
        0.2  # of embeddings, attention, feed-forward and residual; None: the model's
    )
    dim: Count = 768  # of each sub-space
    shared: bool = False  # one sub-space for all views
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    length_groups: Count = 1  # passes over a training batch, by length


@dataclass
class MethodConfig:
    """The objective of pre-training."""

    learning: Literal["semi", "super", "self"] = "semi"  # which batches a step has
    # of labelled pairs; hard: 1 for equal trees; combined: the mean over the views as one score, on
    # the sentence vector itself
    score: Literal["tree", "hard", "none", "combined"] = "tree"
    views: Annotated[list[View], not_empty] = field(default_factory=lambda: list(TEN))
    tau: Positive = 0.07
    base_tau: Positive | None = 0.07  # the loss is multiplied by tau / base_tau; None: it is not
    mlm_weight: NonNegative = 0.1
    gather: bool = False  # contrast with the examples of all devices

    def __post_init__(self) -> None:
        if len(set(self.views)) != len(self.views):
            raise ValueError("method.views: name each view once")


@dataclass
class TaskConfig:
    """Fine-tuning; `train: finetune`."""

    kind: Literal["intent", "slot", "top", "dst"] = "intent"
    # bundled: CLINC150's 50 other intents, Restaurants-8k, SNIPS, SGD; folder: DialoGLUE's layout
    source: Literal["synthetic", "bundled", "folder"] = "bundled"
    folder: str | None = None  # source=folder, below data.root: train, val, test files
    train_file: str | None = None  # source=folder: another training file, such as train_10.csv
    examples: Count | None = None  # of the training part, drawn by the seed; None: all
    per_intent: Count | None = None  # the same for each intent; None: all
    delexicalize: bool = (
        False  # dst, source=folder: hide the values that the system told in its texts
    )
    label_maps: str | None = None  # dst: JSON {value: [other ways to write it]}
    kl_weight: NonNegative = 5.0  # symmetric KL of two dropout copies; 0: one copy
    mlm_weight: NonNegative = 0.1
    mlm_pre_epochs: NonNegative = 0.0  # of masked prediction alone on the task's texts, before
    head_dropout: Rate = 0.1
    class_loss_ratio: Rate = 0.8  # dst: of the slot gates; spans and references share the rest

    def __post_init__(self) -> None:
        if (self.source == "folder") != (self.folder is not None):
            raise ValueError("task.folder and task.source=folder belong together")
        if (self.train_file or self.delexicalize) and self.folder is None:
            raise ValueError("task.train_file and task.delexicalize need task.source=folder")
        if self.kind != "dst" and (self.delexicalize or self.label_maps):
            raise ValueError("task.delexicalize and task.label_maps need task.kind=dst")
        if self.per_intent and (self.kind not in ("intent", "top") or self.examples):
            raise ValueError("task.per_intent needs task.kind=intent or top, and no task.examples")


@dataclass
class EvalConfig(OwnData):
    """What is scored after pre-training, and on which part after fine-tuning."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.LABELLED: Judge(), Layout.PAIRS: Judge()}

    part: Literal["dev", "test"] = "test"
    corpus: str | None = None  # data.source=corpora: whose turns; None: the first with that part
    turns: Annotated[int, at_least(3)] = (
        1200  # held-out turns whose pairs are compared with the tree score
    )
    act_turns: Count = 800  # turns for the few-shot sets of acts
    shots: Count = 5
    episodes: Count = 50
    batch_size: Count = 128


@dataclass
class ClassifyConfig:
    """`make run TASK=classify`: intents of your own texts."""

    run: str = "latest"  # a run of this config, or a folder written by `make export`
    input: str | None = None  # one request per line
    examples: str | None = (
        None  # CSV or TSV (text, label); needed where the model has no intent head
    )


@dataclass
class PredictConfig:
    """`make run TASK=predict`: slots, parses or states of your own texts by a fine-tuned head."""

    run: str = "latest"  # a run of this config, or a folder written by `make export`
    # one request a line; of dialogue states JSON {dialogue: {"turns": [{"role": "user" | "system",
    # "text": ...}]}}, see the card
    input: str | None = None


@dataclass
class ConvertConfig:
    """`make run TASK=convert`: an annotated set as a corpus of semantic trees."""

    kind: Literal["intents", "spans", "parses", "states"] = "intents"
    # CSV (text, category), JSON of Restaurants-8k, lines of DialoGLUE's TOP, JSON of MultiWOZ 2.1
    input: str | None = None
    output: str | None = None  # folder of the corpus
    part: Literal["train", "valid", "test"] = "train"
    domain: str | None = None  # of all examples; None: a placeholder


@dataclass
class Config(ExperimentConfig):
    """SPACE-2 experiment."""

    train: Literal["pretrain", "finetune"] = "pretrain"
    data: DialogData = field(default_factory=DialogData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    convert: ConvertConfig = field(default_factory=ConvertConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        pretrain, method = self.train == "pretrain", self.method
        if (
            pretrain
            and method.learning == "semi"
            and self.data.batch_nolabel % self.data.batch_size
        ):
            raise ValueError("data.batch_nolabel must be a multiple of data.batch_size")
        if pretrain and self.trainer.val_every_n_steps is not None:
            raise ValueError("trainer.val_every_n_steps: pre-training has no validation; set null")
        if self.model.shared and method.score == "combined":
            raise ValueError(
                "model.shared: method.score=combined has no sub-space; set one of them"
            )
