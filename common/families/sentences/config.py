"""Config sections that every sentence-embedding experiment shares; nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig
from common.data.layouts import Layout
from common.data.text.options import TRANSFER_NAMES, check_sets
from common.evaluation.own_data import OWN, Judge, OwnData
from common.evaluation.retrieval.options import SearchConfig as SearchConfig
from common.ranges import Count, Positive, Rate, at_least

Pooling = Literal[
    "cls",
    "cls_before_pooler",
    "avg",
    "avg_all",
    "avg_first_last",
    "avg_embedding_last",
    "avg_top2",
    "mask",
    "last_token",
    "max",
]


@dataclass
class SentenceData(DataConfig):
    """Training texts."""

    # sentences: the bundled ones; nli: bundled premise, entailment, contradiction; file: see below
    source: Literal["synthetic", "sentences", "nli", "file"] = "sentences"
    file: str | None = None  # .txt of one column, .csv or .tsv of one to three, below data.root
    parts: list[str] = field(default_factory=list)  # of sentences: book, wiki, tatoeba; []: all
    limit: Count | None = None  # rows, drawn by the seed
    max_length: Annotated[int, at_least(4)] = 32  # tokens in training, special ones included
    bucket_batches: Count | None = None  # batches that are sorted by length together; None: off

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("data.file and data.source=file belong together")


@dataclass
class TextModel:
    """The sentence encoder."""

    pretrained: str = "bundled:text-encoder"  # see common.encoders.resolve_pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    pooling: Pooling = "cls"
    mlp_only_train: bool = False  # pooling=cls: the dense layer is left out when evaluating
    attention: Literal["auto", "eager", "sdpa"] = "auto"  # eager is faster for short texts on a CPU
    dropout: Rate | None = None  # every dropout probability of the transformer; None: its own
    max_length: Annotated[int, at_least(4)] | None = (
        None  # tokens of a text outside training; None: the model's limit
    )
    # every text is written into it: {text} and, for pooling=mask, [MASK], each once
    template: str | None = None
    # passes over a training batch, by length, each without its common padding; None: four on a CPU
    # (16 rows each at least), one on a GPU
    length_groups: Count | None = None
    random_init: bool = False  # architecture and tokenizer of `pretrained`, weights drawn at random

    def __post_init__(self) -> None:
        if self.mlp_only_train and self.pooling != "cls":
            raise ValueError("model.mlp_only_train is for model.pooling=cls, which has a head")
        template = self.template or ""
        if self.pooling == "mask" and template.count("[MASK]") != 1:
            raise ValueError(
                "model.pooling=mask needs a model.template with one [MASK], such as "
                "'This sentence : \"{text}\" means [MASK] .'"
            )
        if self.template is not None and template.count("{text}") != 1:
            raise ValueError("model.template needs {text}, once")
        if (self.length_groups or 1) > 1 and self.pooling == "avg_all":
            raise ValueError(
                "model.length_groups must be 1 with model.pooling=avg_all, which averages over"
                " padding"
            )


@dataclass
class SentenceLoss:
    """Options that every in-batch objective on sentences has."""

    temperature: Positive = 0.05  # tau, divides the cosines
    gather: bool = True  # in-batch negatives of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class StsEval(OwnData):
    """Semantic textual similarity, "all" setting: one Spearman over all pairs of a set."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.PAIRS: Judge({"eval.sets": [OWN], "eval.transfer": []}, baselines=True),
        Layout.LABELLED: Judge(),
        Layout.JUDGED: Judge(),
    }

    # names, or files of scored pairs (.csv, .tsv, .jsonl), as typed or below data.root; their rows
    # of the table also hold word overlap (jaccard_*) and TF-IDF (tfidf_*)
    sets: list[str] = field(default_factory=lambda: ["stsb-test", "sts12", "sts13", "sts14"])
    dev: str = "stsb-dev"  # selects the checkpoint when trainer.val_every_n_steps is set
    batch_size: Count = 128
    untrained: bool = True  # also score the encoder as it was before training
    # logistic regression on frozen embeddings, of MR, CR, SUBJ, MPQA, SST2, TREC, MRPC
    transfer: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_sets(self.sets)
        unknown = [name for name in self.transfer if name not in TRANSFER_NAMES]
        if unknown:
            raise ValueError(f"eval.transfer: no {unknown[0]}; known: {', '.join(TRANSFER_NAMES)}")
