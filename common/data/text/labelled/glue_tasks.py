"""GLUE's nine tasks: files, columns, classes. Light: configs read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from common.data.text.pairs.tasks import NLI

GlueName = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
Published = Literal["official", "bundled", "synthetic"]
Source = Literal["official", "bundled", "synthetic", "file"]
TWO = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        name: see `GLUE`.
        labels: classes in the order of the logits; none of STS-B, whose scores are 0 to 5.
        columns: header names of the texts and of the label; numbers where a file has no header.
        files: part -> official file; parts that begin with "test" have no labels.
        test_columns: header names of the texts in the test part; (): those of the others.
        submission: part -> name of its file at the leaderboard.
    """

    name: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    files: Mapping[str, str]
    test_columns: tuple[str, ...] = ()
    submission: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_texts(self) -> int:
        """1, or 2 of pairs."""
        return len(self.columns) - 1

    @property
    def is_regression(self) -> bool:
        """Whether labels are scores."""
        return not self.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the logits."""
        return self.labels or ("score",)


def _task(
    name: str,
    folder: str,
    labels: tuple[str, ...],
    columns: tuple[str, ...],
    test: tuple[str, ...] = (),
) -> GlueTask:
    files = {part: f"{folder}/{part}.tsv" for part in ("train", "dev", "test")}
    return GlueTask(name, labels, columns, files, test, {"test": f"{folder}.tsv"})


PAIR = ("sentence1", "sentence2")
GLUE: dict[str, GlueTask] = {
    task.name: task
    for task in (
        _task("cola", "CoLA", ("0", "1"), ("3", "1"), ("sentence",)),
        _task("sst2", "SST-2", ("0", "1"), ("sentence", "label")),
        _task("mrpc", "MRPC", ("0", "1"), ("#1 String", "#2 String", "Quality")),
        _task("stsb", "STS-B", (), (*PAIR, "score")),
        _task("qqp", "QQP", ("0", "1"), ("question1", "question2", "is_duplicate")),
        GlueTask(
            "mnli",
            NLI,
            (*PAIR, "gold_label"),
            {
                "train": "MNLI/train.tsv",
                "dev": "MNLI/dev_matched.tsv",
                "dev_mm": "MNLI/dev_mismatched.tsv",
                "test": "MNLI/test_matched.tsv",
                "test_mm": "MNLI/test_mismatched.tsv",
                "test_ax": "AX/AX.tsv",
            },
            (),
            {"test": "MNLI-m.tsv", "test_mm": "MNLI-mm.tsv", "test_ax": "AX.tsv"},
        ),
        _task("qnli", "QNLI", TWO, ("question", "sentence", "label")),
        _task("rte", "RTE", TWO, (*PAIR, "label")),
        _task("wnli", "WNLI", ("0", "1"), (*PAIR, "label")),
    )
}
assert set(GLUE) == set(get_args(GlueName))
