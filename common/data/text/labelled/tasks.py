"""Classification of texts and pairs of texts: classes, files, and what may be reworded.

No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from common.data.text.pairs.tasks import TASKS as PAIR_TASKS

LabelledName = Literal[
    "synthetic",
    "file",
    "banking77",
    "banking10",
    "snips",
    "bigram_shift",
    "sst2",
    "cola",
    "mrpc",
    "qqp",
    "qnli",
    "rte",
    "wnli",
    "mnli",
    "cb",
    "boolq",
    "wic",
]
Metric = Literal["accuracy", "f1", "macro_f1", "matthews"]
# ten of BANKING77's intents that share most of their words: all of them are about a transfer or a
# payment
BANKING10 = (
    "balance_not_updated_after_bank_transfer",
    "beneficiary_not_allowed",
    "cancel_transfer",
    "declined_transfer",
    "failed_transfer",
    "pending_transfer",
    "transfer_fee_charged",
    "transfer_into_account",
    "transfer_not_received_by_recipient",
    "transfer_timing",
)
SNIPS = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)


@dataclass(frozen=True)
class LabelledTask:
    """Texts, or pairs of them, with a class.

    Attributes:
        name: see `TASKS`.
        labels: names of the classes in the order of the logits; (): those of the data.
        num_texts: 1, or 2 of pairs.
        reworded: which texts may be changed while the class stays: not both of a pair where one
            follows from the other.
        metric: that the task is ranked by.
        test_part: with labels that are public: GLUE's own test part has none.
        files: part -> files below the data root, of tasks that are read here.
        columns: names of the texts and of the label in these files.
    """

    name: str
    labels: tuple[str, ...]
    num_texts: int = 1
    reworded: tuple[int, ...] = (0,)
    metric: Metric = "accuracy"
    test_part: str = "test"
    files: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ("text", "label")


def _glue(name: str, reworded: tuple[int, ...], metric: Metric = "accuracy") -> LabelledTask:
    pair = PAIR_TASKS[name]
    test = "dev"
    return LabelledTask(name, pair.labels, 2, reworded, metric, test)


def _super_glue(
    name: str,
    folder: str,
    labels: tuple[str, ...],
    reworded: tuple[int, ...],
    metric: Metric,
    columns: tuple[str, ...],
) -> LabelledTask:
    files = {"train": f"{folder}/train.jsonl", "dev": f"{folder}/val.jsonl"}
    return LabelledTask(name, labels, 2, reworded, metric, "dev", files, columns)


_YES = ("false", "true")

TASKS: dict[str, LabelledTask] = {
    task.name: task
    for task in (
        LabelledTask("synthetic", ("animals", "weather", "money")),
        LabelledTask("banking77", ()),
        LabelledTask("banking10", BANKING10),
        LabelledTask("snips", SNIPS),
        LabelledTask("bigram_shift", ("as_written", "shifted")),
        LabelledTask(
            "sst2",
            ("0", "1"),
            test_part="dev",
            columns=("sentence", "label"),
            files={"train": "SST-2/train.tsv", "dev": "SST-2/dev.tsv"},
        ),
        LabelledTask(
            "cola",
            ("0", "1"),
            metric="matthews",
            test_part="dev",
            columns=("3", "1"),
            files={"train": "CoLA/train.tsv", "dev": "CoLA/dev.tsv"},
        ),
        _glue("mrpc", (0, 1), "f1"),
        _glue("qqp", (0, 1), "f1"),
        _glue("qnli", (1,)),
        _glue("rte", (0,)),
        _glue("wnli", (0,)),
        _glue("mnli", (0,)),
        _super_glue(
            "cb",
            "CB",
            ("entailment", "contradiction", "neutral"),
            (0,),
            "macro_f1",
            ("premise", "hypothesis", "label"),
        ),
        _super_glue("boolq", "BoolQ", _YES, (1,), "accuracy", ("question", "passage", "label")),
        _super_glue("wic", "WiC", _YES, (0, 1), "accuracy", ("sentence1", "sentence2", "label")),
    )
}
assert {*TASKS, "file"} == set(get_args(LabelledName))


def own_task(labels: list[str], num_texts: int = 1) -> LabelledTask:
    """The task of own files, with the columns text and label, or first, second and label."""
    columns = ("text", "label") if num_texts == 1 else ("first", "second", "label")
    return LabelledTask("file", tuple(labels), num_texts, tuple(range(num_texts)), columns=columns)
