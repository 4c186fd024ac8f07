"""Config sections that retrieval experiments share; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import DataConfig
from common.evaluation.retrieval.options import SearchConfig as SearchConfig


@dataclass
class TrainingSet:
    """One training set; what is left out comes from common.data.retrieval.registry by its name."""

    samples: int = 1000  # examples in an epoch: the proportion of the set in a blended batch
    path: str | None = None  # file or folder below data.root; None: bundled or synthetic
    limit: int | None = None  # examples that are kept, drawn by the seed
    kind: Literal["retrieval", "sts", "classification", "clustering"] | None = None
    layout: (
        Literal["records", "beir", "pairs", "dpr", "tevatron", "squad", "nli", "sts", "labelled",
                "clusters"] | None
    ) = None  # fmt: skip
    instruction: str | None = None
    symmetric: bool | None = None  # documents get the instruction too
    mine: bool | None = None  # negatives are mined; None: in sets whose files have none

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.limit or 1) < 1:
            raise ValueError("data.sets.*.samples and data.sets.*.limit must be >= 1")


@dataclass
class MiningConfig:
    """Hard negatives of retrieval and STS sets, found in the sets' own documents."""

    # none: only negatives of the files; bm25: when a run begins, and by the task `mine`;
    # encoder: by the task only, with an exported encoder
    teacher: Literal["none", "bm25", "encoder"] = "none"
    encoder: str | None = None  # folder written by `make export`, or a released checkpoint
    ratio: float | None = (
        0.95  # of the positive's score, above which nothing is a negative; None: off
    )
    num_negatives: int = 7  # kept for each query
    candidates: int = 100  # nearest documents that are looked at
    output: str | None = (
        None  # task: folder of the files <set>.jsonl; None: below the task's folder
    )

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError("data.mining.ratio must be in (0, 1], or null for no filter")
        if (self.teacher == "encoder") != (self.encoder is not None):
            raise ValueError("data.mining.teacher=encoder and data.mining.encoder belong together")


@dataclass
class RetrievalData(DataConfig):
    """Training sets and batches."""

    source: Literal["synthetic", "sets"] = "sets"
    sets: dict[str, TrainingSet] = field(default_factory=dict)
    num_negatives: int = 7  # hard negatives of a query
    batches: Literal["blended", "homogeneous"] = "blended"
    class_positives: Literal["example", "label"] = "example"  # of labelled sets with > 2 classes
    max_length: int = 512  # tokens in training, instruction and special tokens included
    mining: MiningConfig = field(default_factory=MiningConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_negatives < 1 or self.max_length < 8:
            raise ValueError("data.num_negatives must be >= 1 and data.max_length >= 8")


@dataclass
class RetrievalEval:
    """Options of every evaluation."""

    batch_size: int = 64
    untrained: bool = True  # also score the encoder as it was before training, as untrained_*
    lexical: bool = True  # also score BM25 or TF-IDF on the same texts, as bm25_* and tfidf_*
    beir: list[str] = field(default_factory=list)  # folders in the BEIR layout, below data.root
