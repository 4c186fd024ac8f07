"""What can be set in a DSE experiment."""

from dataclasses import dataclass, field
from typing import Any, Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.data.text.options import TRANSFER_NAMES
from common.ranges import Count, Probability, Rate, Whole
from projects.dse.pair_config import ClassifierConfig, PairData, PairEval


@dataclass
class PoolConfig:
    """From the states of a sentence to its vector."""

    # see projects.dse.layer_pooling; word_vectors and bilstm are the baselines of the field
    kind: Literal[
        "concat_top_mean",
        "mean_top_mean",
        "concat_top_max",
        "mean_top_max",
        "cls",
        "word_vectors",
        "bilstm",
    ] = "concat_top_mean"
    top_layers: Count = 4
    use_cls: bool = False  # the first token is pooled too
    sqrt_len: bool = False  # divide the sum by the root of the length
    dropout: Rate = 0.1  # on the pooled vector

    def __post_init__(self) -> None:
        if self.sqrt_len and not self.kind.endswith("top_mean"):
            raise ValueError(
                "student.pool.sqrt_len divides a sum: use a kind that ends in top_mean"
            )


@dataclass
class HeadConfig:
    """From two vectors to the logits of the pair."""

    kind: Literal["concat", "dot"] = "concat"
    dims: list[Count] = field(
        default_factory=lambda: [512]
    )  # hidden layers; C follows from the task


@dataclass
class StudentConfig:
    """The encoder that both sentences share, and the head."""

    encoder: str = "bundled:text-encoder"  # see common.encoders.resolve_pretrained
    config: dict[str, Any] | None = None  # with encoder=random: model_type and its fields
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    dropout: Rate | None = None  # of the transformer; None: its own
    length_groups: Count = 1  # passes over a batch, by length
    freeze: bool = False  # train the head (and projection, and BiLSTM) alone
    projection_dim: Count | None = None  # linear map on the pooled vector
    pool: PoolConfig = field(default_factory=PoolConfig)
    head: HeadConfig = field(default_factory=HeadConfig)


@dataclass
class DistillConfig:
    """Loss of the student."""

    alpha: Probability = (
        0.5  # weight of the teacher's logits; 0: none are read, 1: labels play no part
    )
    # logits of any teacher: folder of `make run TASK=score`, or JSON lines; None: train one
    scores: str | None = None


@dataclass
class SpeedConfig:
    """Time of all pairs of Q queries and K candidates."""

    queries: Whole = 0  # Q; 0: not measured
    candidates: list[Count] = field(default_factory=lambda: [10, 50, 200, 1000, 2000])  # each K
    teacher_pairs: Count = 256  # that the teacher is timed on; its time is proportional
    repeats: Count = 3  # the fastest counts


@dataclass
class DseEval(PairEval):
    """Task metrics, the embedding on its own, and speed."""

    sts: list[str] = field(default_factory=list)  # sets of common.data.text.sets, cosine
    transfer: list[str] = field(default_factory=list)  # SentEval: logistic regression
    speed: SpeedConfig = field(default_factory=SpeedConfig)

    def __post_init__(self) -> None:
        unknown = [name for name in self.transfer if name not in TRANSFER_NAMES]
        if unknown:
            raise ValueError(f"eval.transfer: no {unknown[0]}; known: {', '.join(TRANSFER_NAMES)}")


@dataclass
class ScoreConfig:
    """`make run TASK=score`: the teacher's logits of a part of the task."""

    part: str = "train"
    output: str | None = None  # folder, becomes distill.scores; None: in the task's folder


@dataclass
class RankConfig:
    """`make run TASK=rank`: candidates in the order of the student's logit."""

    run: str = "latest"  # run of this config, or a folder written by `make export`
    queries: str | None = None  # one a line
    candidates: str | None = None  # one a line
    k: Count = 5
    label: str | None = None  # class whose logit ranks; None: entailment, else the last one
    both_orders: bool = False  # average over (query, candidate) and (candidate, query)


@dataclass
class TableConfig:
    """`make run TASK=table`: teacher, students and baselines of several tasks side by side."""

    runs: list[str] = field(default_factory=list)  # folders of runs; []: all of the project


@dataclass
class Config(ExperimentConfig):
    """DSE experiment."""

    train: Literal["student", "teacher"] = "student"  # teacher: the cross-encoder alone
    data: PairData = field(default_factory=PairData)
    teacher: ClassifierConfig = field(default_factory=ClassifierConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    eval: DseEval = field(default_factory=DseEval)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    table: TableConfig = field(default_factory=TableConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train == "teacher" and self.teacher.head == "keep":
            raise ValueError(
                "teacher.head=keep is a finished classifier: there is nothing to train"
            )
        if self.student.head.kind == "dot":
            if self.data.pair_task.num_logits != 1:
                raise ValueError(
                    f"student.head.kind=dot is one number, and {self.data.task} has classes"
                )
            self.student.head.dims = []
        self._check_parts()

    def _check_parts(self) -> None:
        """Parts that are scored or select the checkpoint exist: said before anything is trained."""
        task, parts_of = self.data.pair_task, {"eval.parts": list(self.eval.parts)}
        if self.trainer.val_every_n_steps is not None:
            parts_of["eval.dev"] = [self.eval.dev]
        available = list(task.files) or ["train", "dev", "test"]
        if task.name == "file":
            available = [part for part in available if self.data.files(part)]
        for key, parts in parts_of.items():
            for part in parts:
                if part not in available:
                    hint = f", and no data.{part}_file" if task.name == "file" else ""
                    raise ValueError(
                        f"{key}: {task.name} has no part '{part}'{hint}; it has {', '.join(available)}"
                    )
