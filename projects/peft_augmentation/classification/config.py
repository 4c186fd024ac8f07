"""Config sections of text classification: data, encoder, tuning, evaluation. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig
from common.data.layouts import Layout
from common.data.text.labelled.tasks import TASKS, LabelledName, LabelledTask, own_task
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, Positive, Probability, Rate, Whole, at_least


@dataclass
class LabelledData(DataConfig):
    """Texts with classes, and how few of them are trained on."""

    task: LabelledName = "snips"  # see common.data.text.labelled.tasks
    examples: Count | None = None  # n, drawn by the seed; None: all that are not for development
    dev_examples: Whole = 0  # as many others, of the training part, that select the checkpoint
    balance: Literal["stratified", "equal"] = "stratified"  # shares of the classes among them
    labels: list[str] = field(default_factory=list)  # task=file: classes; []: those of train_file
    pairs: bool = False  # task=file: the columns are first, second, label in place of text, label
    # task=file: CSV or TSV, here or below data.root
    train_file: str | None = None
    test_file: str | None = None

    def __post_init__(self) -> None:
        if (self.task == "file") != (self.train_file is not None):
            raise ValueError("data.train_file and data.task=file belong together")
        if len(self.labels) == 1 or len(set(self.labels)) != len(self.labels):
            raise ValueError("data.labels: name at least two different classes, or none")

    @property
    def labelled_task(self) -> LabelledTask:
        """Classes and texts."""
        if self.task == "file":
            return own_task(self.labels, 2 if self.pairs else 1)
        return TASKS[self.task]

    def files(self, part: str) -> list[str]:
        """Own files of a part."""
        found = self.train_file if part == "train" else self.test_file
        return [] if found is None else [found]


@dataclass
class ClassifierModel:
    """Encoder, sentence vector and head."""

    pretrained: str = "bundled:text-encoder"  # see common.encoders.resolve_pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    layers: Count | None = None  # the first ones of the encoder, for a smaller one; None: all
    # see common.encoders.text.tuned.classifier; new_pooler: for weights without one (RoBERTa)
    pooling: Literal["pooler", "new_pooler", "cls", "mean"] = "cls"
    dropout: Rate | None = None  # of the encoder; None: its own
    head_dropout: Rate = 0.1  # on the vector
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    max_length: Annotated[int, at_least(8)] = 128  # pieces of a row; the longer text is cut
    length_groups: Count = 1  # passes over a training batch, by length


@dataclass
class TuningConfig:
    """Which parameters are trained; the head always is."""

    kind: Literal["full", "lora", "prefix"] = "full"
    prefix_length: Whole = 16  # m; 0: the head alone on a frozen encoder
    projection_dim: Count | None = None  # perceptron that makes the prefix; None: a table
    prefix_dropout: Rate | None = None  # None: the encoder's
    shift_positions: bool = True  # positions of the text begin at m
    rank: Count = 8  # r of LoRA
    alpha: Positive = 16.0
    lora_dropout: Rate = 0.1
    targets: list[str] = field(default_factory=lambda: ["query", "value"])


@dataclass
class ClassifierEval(OwnData):
    """What is scored, and how."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.LABELLED: Judge()}

    part: Literal["test", "dev"] = "test"  # dev: the development examples, for pilots
    batch_size: Count = 128
    alterations: list[Probability] = field(default_factory=list)  # shares of altered words
    separation: bool = True  # silhouette and distances of the sentence vectors
