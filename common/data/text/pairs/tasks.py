"""Sentence-pair tasks by name: kind, labels in the order of GLUE's processors, files.

No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["multiclass", "binary", "regression"]
TaskName = Literal[
    "synthetic",
    "file",
    "nli",
    "nli_binary",
    "stsb",
    "same_intent",
    "mnli",
    "snli",
    "allnli",
    "qqp",
    "qnli",
    "mrpc",
    "sts-b",
    "rte",
    "wnli",
]
NLI = ("contradiction", "entailment", "neutral")  # GLUE's order, the same for SNLI and MNLI


@dataclass(frozen=True)
class PairTask:
    """What a pair is labelled with.

    Attributes:
        name: see `TASKS`.
        kind: classes, two classes, or a number.
        labels: names of the classes in the order of the logits; none of a regression.
        columns: header names of first text, second text and label in the official files.
        files: part -> files below the folder of GLUE's tasks, read one after the other.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    columns: tuple[str, str, str] = ("sentence1", "sentence2", "label")
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_logits(self) -> int:
        """C: one logit of a binary task or a regression, else one a class."""
        return len(self.labels) if self.kind == "multiclass" else 1

    @property
    def num_teacher_logits(self) -> int:
        """Of a classifier of the usual kind: one a class, also where there are two."""
        return max(1, len(self.labels))


def _glue(
    name: str,
    kind: Kind,
    labels: tuple[str, ...],
    columns: tuple[str, str, str],
    **files: tuple[str, ...],
) -> PairTask:
    return PairTask(name, kind, labels, columns, files)


_S = ("sentence1", "sentence2", "label")
_GOLD = ("sentence1", "sentence2", "gold_label")
_TWO = ("entailment", "not_entailment")

TASKS: dict[str, PairTask] = {
    task.name: task
    for task in (
        PairTask("synthetic", "multiclass", NLI),
        PairTask("nli", "multiclass", NLI),
        PairTask("nli_binary", "binary", ("not_entailment", "entailment")),
        PairTask("stsb", "regression"),
        PairTask("same_intent", "binary", ("other", "same")),
        _glue(
            "mnli",
            "multiclass",
            NLI,
            _GOLD,
            train=("MNLI/train.tsv",),
            dev=("MNLI/dev_matched.tsv",),
            dev_mm=("MNLI/dev_mismatched.tsv",),
        ),
        _glue(
            "snli",
            "multiclass",
            NLI,
            _GOLD,
            train=("SNLI/train.tsv",),
            dev=("SNLI/dev.tsv",),
            test=("SNLI/test.tsv",),
        ),
        _glue(
            "allnli",
            "multiclass",
            NLI,
            _GOLD,
            train=("SNLI/train.tsv", "MNLI/train.tsv"),
            dev=("SNLI/dev.tsv", "MNLI/dev_matched.tsv"),
        ),
        _glue(
            "qqp",
            "binary",
            ("0", "1"),
            ("question1", "question2", "is_duplicate"),
            train=("QQP/train.tsv",),
            dev=("QQP/dev.tsv",),
        ),
        _glue(
            "qnli",
            "binary",
            _TWO,
            ("question", "sentence", "label"),
            train=("QNLI/train.tsv",),
            dev=("QNLI/dev.tsv",),
        ),
        _glue(
            "mrpc",
            "binary",
            ("0", "1"),
            ("#1 String", "#2 String", "Quality"),
            train=("MRPC/train.tsv",),
            dev=("MRPC/dev.tsv",),
        ),
        _glue(
            "sts-b",
            "regression",
            (),
            ("sentence1", "sentence2", "score"),
            train=("STS-B/train.tsv",),
            dev=("STS-B/dev.tsv",),
        ),
        _glue("rte", "binary", _TWO, _S, train=("RTE/train.tsv",), dev=("RTE/dev.tsv",)),
        _glue("wnli", "binary", ("0", "1"), _S, train=("WNLI/train.tsv",), dev=("WNLI/dev.tsv",)),
    )
}
assert {*TASKS, "file"} == set(get_args(TaskName))


def file_task(labels: list[str]) -> PairTask:
    """The task of own files: a regression without labels, binary with two, else multiclass."""
    kind: Kind = "regression" if not labels else "binary" if len(labels) == 2 else "multiclass"
    return PairTask("file", kind, tuple(labels), ("first", "second", "label"))
