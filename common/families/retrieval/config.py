"""Config sections that retrieval experiments share; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import DataConfig
from common.evaluation.retrieval.options import SearchConfig as SearchConfig
from common.ranges import Count, Share, at_least


@dataclass
class TrainingSet:
    """One training set; what is left out comes from common.data.retrieval.registry by its name."""

    samples: Count = 1000  # examples in an epoch: the proportion of the set in a blended batch
    path: str | None = None  # file or folder below data.root; None: bundled or synthetic
    limit: Count | None = None  # examples that are kept, drawn by the seed
    kind: Literal["retrieval", "sts", "classification", "clustering"] | None = None
    layout: (
        Literal["records", "beir", "pairs", "dpr", "tevatron", "squad", "nli", "sts", "labelled",
                "clusters"] | None
    ) = None  # fmt: skip
    instruction: str | None = None
    symmetric: bool | None = None  # documents get the instruction too
    mine: bool | None = None  # negatives are mined; None: in sets whose files have none


@dataclass
class MiningConfig:
    """Hard negatives of retrieval and STS sets, found in the sets' own documents."""

    # none: only negatives of the files; bm25: when a run begins, and by the task `mine`;
    # encoder: by the task only, with an exported encoder
    teacher: Literal["none", "bm25", "encoder"] = "none"
    encoder: str | None = None  # folder written by `make export`, or a released checkpoint
    ratio: Share | None = (
        0.95  # of the positive's score, above which nothing is a negative; None: off
    )
    num_negatives: Count = 7  # kept for each query
    candidates: Count = 100  # nearest documents that are looked at
    output: str | None = (
        None  # task: folder of the files <set>.jsonl; None: below the task's folder
    )

    def __post_init__(self) -> None:
        if (self.teacher == "encoder") != (self.encoder is not None):
            raise ValueError("data.mining.teacher=encoder and data.mining.encoder belong together")


@dataclass
class RetrievalData(DataConfig):
    """Training sets and batches."""

    source: Literal["synthetic", "sets"] = "sets"
    sets: dict[str, TrainingSet] = field(default_factory=dict)
    num_negatives: Count = 7  # hard negatives of a query
    batches: Literal["blended", "homogeneous"] = "blended"
    class_positives: Literal["example", "label"] = "example"  # of labelled sets with > 2 classes
    max_length: Annotated[int, at_least(8)] = (
        512  # tokens in training, instruction and special tokens included
    )
    mining: MiningConfig = field(default_factory=MiningConfig)


@dataclass
class RetrievalEval:
    """Options of every evaluation."""

    batch_size: Count = 64
    untrained: bool = True  # also score the encoder as it was before training, as untrained_*
    lexical: bool = True  # also score BM25 or TF-IDF on the same texts, as bm25_* and tfidf_*
    beir: list[str] = field(default_factory=list)  # folders in the BEIR layout, below data.root
