"""Config sections that retrieval experiments share; nothing here imports torch."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig
from common.data.layouts import Layout
from common.evaluation.own_data import OWN, Judge, OwnData
from common.evaluation.retrieval.options import SearchConfig
from common.ranges import Count, Probability, Rate, Share, Whole, at_least


@dataclass
class TrainingSet:
    """One training set; what is left out comes from the registry by its name."""

    samples: Count = 1000  # examples in an epoch: the proportion of the set in a blended batch
    path: str | None = None  # file or folder below data.root; None: bundled or synthetic
    limit: Count | None = None  # examples that are kept, drawn by the seed
    kind: Literal["retrieval", "sts", "classification", "clustering"] | None = None
    layout: (
        Literal[
            "records",
            "beir",
            "pairs",
            "dpr",
            "tevatron",
            "squad",
            "nli",
            "sts",
            "labelled",
            "clusters",
        ]
        | None
    ) = None
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
class DenseModel:
    """One transformer for queries and documents, pooled to a vector."""

    pretrained: str = "bundled:text-encoder"  # see common.encoders.resolve_pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    tokenizer: str | None = None  # with pretrained=random: of other weights; None: the built-in one
    pooling: Literal["avg", "cls_before_pooler", "last_token"] = "avg"
    attention: Literal["auto", "eager", "sdpa"] = "auto"  # eager is faster for short texts on a CPU
    dropout: Rate | None = None  # every dropout probability of the transformer; None: its own
    max_length: Annotated[int, at_least(4)] = 512  # tokens of a text outside training

    def __post_init__(self) -> None:
        if self.tokenizer is not None and self.pretrained != "random":
            raise ValueError(
                "model.tokenizer needs model.pretrained=random: weights bring their own"
            )


def check_queue(size: int, batch_size: int) -> None:
    """Refuse a queue that a batch does not fill without a rest: rows would be of two ages.

    Args:
        size: rows of the queue.
        batch_size: keys that are written at once, of all ranks.

    Raises:
        ValueError: see above.
    """
    if size % batch_size:
        raise ValueError(
            f"method.queue_size={size} is not a multiple of the global batch of {batch_size} keys"
        )


@dataclass
class RetrievalEval(OwnData):
    """Options of every evaluation."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.JUDGED: Judge(
            {
                "eval.beir": [OWN],
                "eval.dev": [],
                "eval.answers": [],
                "eval.groups": {},
                "eval.untrained": True,
                "eval.lexical": True,
            },
            baselines=True,
        ),
        Layout.PAIRS: Judge(),
        Layout.LABELLED: Judge(),
    }

    batch_size: Count = 64
    # documents of a shard; sets with more are encoded once to files that are searched in blocks
    shard_size: Count = 200_000
    embeddings: str | None = None  # folder of these files; None: <runs_dir>/embeddings
    # of these sets: flat is exact; ivfpq and hnsw are approximate, see ApproximateIndex
    index: Literal["flat", "ivfpq", "hnsw"] = "flat"
    untrained: bool = True  # also score the encoder as it was before training, as untrained_*
    untrained_shards: bool = False  # the same on sets larger than a shard
    lexical: bool = True  # also score BM25 or TF-IDF on the same texts, as bm25_* and tfidf_*
    hybrid: bool = False  # also score dense and BM25 merged: hybrid_* (min-max), rrf_* (by rank)
    # and with a weight of the dense ranks that a few judged queries choose: chosen_*
    hybrid_weight: Probability = 0.5  # of the dense scores in hybrid_*
    hybrid_queries: Count = 10  # judged queries, never the scored ones, that choose a weight
    # folders in the BEIR layout, below data.root or bundled, or "synthetic"; "folder@de" takes
    # queries.de.jsonl and qrels/de.tsv (queries in another language), "folder@titles" titles as
    # queries for the texts without them
    beir: list[str] = field(default_factory=list)
    dev: list[str] = field(default_factory=list)  # the same; scored, but in no average
    groups: dict[str, list[str]] = field(default_factory=dict)  # macro averages: name -> sets
    # folders with corpus.jsonl and questions.jsonl (question, answers): recall of answer strings;
    # "folder@de" takes questions.de.jsonl
    answers: list[str] = field(default_factory=list)
    # limits of a config act on bundled sets; typed on the command line, they act on every set
    max_documents: Count | None = None  # of a set: the relevant ones and others; None: all
    held_out_queries: Whole = 0  # of each set: left for fine-tuning, never asked in the evaluation
    # limits that also act on sets of your own; the command line adds those that are typed
    own_limits: list[Literal["max_documents", "held_out_queries"]] = field(default_factory=list)
    normalize_text: bool = False  # plain punctuation and spaces, see common.data.text.normalize
    lower_case: bool = False

    def __post_init__(self) -> None:
        if self.hybrid and not self.lexical:
            raise ValueError("eval.hybrid merges with BM25: it needs eval.lexical")
        unknown = [s for group in self.groups.values() for s in group if s not in self.beir]
        if unknown:
            raise ValueError(f"eval.groups: '{unknown[0]}' is not a set of eval.beir")

    @staticmethod
    def implied_by(typed: Collection[str]) -> dict[str, list[str]]:
        """Settings that follow from the options of this section on the command line.

        Args:
            typed: names of the options.
        """
        return typed_limits(typed, ("max_documents", "held_out_queries"))


def typed_limits(typed: Collection[str], limits: Sequence[str]) -> dict[str, list[str]]:
    """``own_limits`` of an evaluation: those of its `limits` that are typed."""
    names = [name for name in limits if name in typed]
    return {"own_limits": names} if names and "own_limits" not in typed else {}


@dataclass
class RetrievalSearch(SearchConfig):
    """`make run TASK=search` with an encoder, BM25 or both."""

    # of the encoder's ranks in a merge with those of BM25: 1 is the encoder alone, 0 BM25 alone;
    # `make eval` with eval.hybrid=true chooses one on judged queries (chosen_*_dense_weight)
    dense_weight: Probability = 1.0
