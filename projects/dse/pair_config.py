"""Config sections of sentence-pair experiments: data, classifier, evaluation. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig
from common.data.layouts import Layout
from common.data.text.pairs.tasks import TASKS, PairTask, TaskName, file_task
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, NonNegative, Positive, Rate, at_least, not_empty


@dataclass
class PairData(DataConfig):
    """Labelled pairs."""

    task: TaskName = "nli"  # see common.data.text.pairs.tasks
    limit: Count | None = None  # training pairs, drawn by the seed
    max_length: Annotated[int, at_least(8)] = 128  # pieces of a sentence, special ones included
    labels: list[str] = field(default_factory=list)  # task=file: classes; []: a regression
    # task=file: CSV or TSV with columns first, second, label; here or below data.root
    train_file: str | None = None
    dev_file: str | None = None
    test_file: str | None = None

    def __post_init__(self) -> None:
        if (self.task == "file") != (self.train_file is not None):
            raise ValueError("data.train_file and data.task=file belong together")
        if len(self.labels) == 1 or len(set(self.labels)) != len(self.labels):
            raise ValueError("data.labels: name at least two different classes, or none")

    @property
    def pair_task(self) -> PairTask:
        """Kind and labels."""
        return file_task(self.labels) if self.task == "file" else TASKS[self.task]

    def files(self, part: str) -> list[str]:
        """Own files of a part."""
        path = {"train": self.train_file, "dev": self.dev_file, "test": self.test_file}.get(part)
        return [] if path is None else [path]


@dataclass
class ClassifierConfig:
    """A cross-encoder on pairs: how it is fine-tuned, and where it comes from."""

    pretrained: str = "bundled:text-encoder"  # see common.encoders.resolve_pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    head: Literal["new", "keep"] = "new"  # keep: a pair classifier that needs no training
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    # segments: a head on the means of the two texts' states, see common.encoders.text.cross_encoder
    pooling: Literal["classifier", "segments"] = "classifier"
    max_length: Annotated[int, at_least(8)] = 128  # pieces of a pair; the longer text is cut
    length_groups: Count = 1  # passes over a training batch, by length; for padding on the right
    batch_size: Count = 32  # of fine-tuning, per device and step
    epochs: Positive = 3.0
    steps: Count | None = None  # in place of epochs
    lr: Positive = 2e-5
    warmup_share: Rate = 0.1  # of the steps
    weight_decay: NonNegative = 0.01
    accumulate: Count = 1
    score_batch_size: Count = 256
    chunk_size: Count = 4096  # pairs in a file of stored logits

    def __post_init__(self) -> None:
        if self.head == "keep" and self.pooling == "segments":
            raise ValueError("teacher.pooling=segments draws a head: it needs teacher.head=new")


@dataclass
class PairEval(OwnData):
    """Which parts are scored, and how."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.PAIRS: Judge()}

    parts: Annotated[list[str], not_empty] = field(default_factory=lambda: ["test"])
    dev: str = "dev"  # selects the checkpoint when trainer.val_every_n_steps is set
    thresholds: Annotated[list[Rate], not_empty] = field(default_factory=lambda: [0.5])
    batch_size: Count = 128
