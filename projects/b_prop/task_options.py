"""What can be set for the evaluation and for the tasks of `make run`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from common.data.layouts import Layout
from common.evaluation.own_data import OWN, Judge, OwnData
from common.families.retrieval.config import typed_limits
from common.ranges import Count, NonNegative, Positive, Probability, Whole, at_least


@dataclass
class RankerTuning:
    """Fine-tuning of a cross-encoder on judged queries, and its cross-validation over queries."""

    loss: Literal["groupwise", "hinge", "softmax_hinge"] = "groupwise"  # the hinges: group_size=2
    group_size: Annotated[int, at_least(2)] = 2  # documents of a group, the relevant one first
    batch_size: Count = 16  # groups of a step
    steps: Whole = 0  # of each fine-tuning; 0: none
    lr: Positive = 2.0e-5  # peak, after the warm-up; then linear to 0
    warmup_share: Probability = 0.1  # of the steps
    weight_decay: NonNegative = 0.01
    head: Literal["keep", "new"] = "keep"  # the ranking head that training left, or a fresh one
    folds: Annotated[int, at_least(2)] = 5

    def __post_init__(self) -> None:
        if self.loss != "groupwise" and self.group_size != 2:
            raise ValueError(f"the loss '{self.loss}' compares two documents: group_size=2")


@dataclass
class RerankEval(OwnData):
    """Re-ranking: of the first stage's candidates, before and after fine-tuning on the set."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.JUDGED: Judge(
            {
                "eval.sets": [OWN],
                "eval.candidates": {},
                "eval.tune.steps": 0,
                "eval.query_counts": [],
                "eval.pairs": 0,
                "eval.words": False,
            },
            baselines=True,
        )
    }

    sets: list[str] = field(default_factory=list)  # BEIR folders, below data.root or bundled
    candidates: dict[str, str] = field(default_factory=dict)  # set -> run file; else BM25
    depth: Count = 100  # candidates of a query
    # limits of a config act on bundled sets; typed on the command line, they act on every set
    max_documents: Count | None = None  # of a set
    max_queries: Count | None = None  # of a set, those of smallest hash; None: all
    # limits that also act on sets of your own; the command line adds those that are typed
    own_limits: list[Literal["max_documents", "max_queries"]] = field(default_factory=list)
    batch_size: Count = 64
    tune: RankerTuning = field(default_factory=RankerTuning)  # steps=0: no fine-tuned rows
    query_counts: list[Count] = field(default_factory=list)  # curve: rows tuned_<n>_*
    untrained: bool = True  # also before the pre-training, as untrained_*
    # also BM25, query likelihood (and ql_tau, agreement with it), shared words, the best order
    lexical: bool = True
    pairs: Whole = 200  # fresh pairs of word sets: is their order learnt?
    words: bool = True  # how good the ten most likely words of the first set's titles are

    def __post_init__(self) -> None:
        unknown = [name for name in self.candidates if name not in self.sets]
        if unknown:
            raise ValueError(f"eval.candidates: '{unknown[0]}' is not a set of eval.sets")
        if self.query_counts and not self.tune.steps:
            raise ValueError("eval.query_counts needs eval.tune.steps")

    @staticmethod
    def implied_by(typed: Collection[str]) -> dict[str, list[str]]:
        """Settings that follow from the options of this section on the command line.

        Args:
            typed: names of the options.
        """
        return typed_limits(typed, ("max_documents", "max_queries"))


@dataclass
class PrepareConfig:
    """`make run TASK=prepare` and `TASK=word_sets`."""

    input: str | None = None  # .jsonl (title, text), .tsv (docid, url, title, body), or BEIR folder
    output: str | None = None  # folder; None: the task's
    attention: bool = True  # False: words and counts alone, for words.distribution=unigram
    # white-space words of a text that are kept; if attention=false its whole text is counted first.
    # None: all are kept, and counted within data.max_document
    keep_words: Count | None = None
    batch_size: Count = 32
    epoch: Whole = 0  # word_sets: epoch of the data


@dataclass
class RankConfig:
    """`make run TASK=rank`: candidates of the user's own queries in a ranker's order."""

    input: str | None = None  # .jsonl of query and documents
    documents: str | None = None  # or a text file, one document per line, with queries
    queries: str | None = None  # text file, one a line
    depth: Count = 100  # BM25 candidates of a query
    output: str | None = None  # .jsonl; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder of a ranker
