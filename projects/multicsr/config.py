"""What can be set in a MultiCSR experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.families.sentences.config import (
    Pooling,
    SearchConfig,
    SentenceData,
    SentenceLoss,
    StsEval,
    TextModel,
)
from common.ranges import Count, NonNegative, Positive, Probability, Rate, between

Grade = Annotated[float, between(0, 5)]


@dataclass
class SpoilConfig:
    """Errors that are made on purpose, as shares of the triplets; one triplet has one at most."""

    unrelated: Rate = 0.0  # the positive is that of another premise
    reversed: Rate = 0.0  # positive and hard negative are exchanged
    drifted: Rate = 0.0  # the positive adds what the premise does not say (NLI's neutral sentence)

    def __post_init__(self) -> None:
        if self.unrelated + self.reversed + self.drifted > 1:
            raise ValueError("data.spoil: the shares sum to more than 1")


@dataclass
class MulticsrData(SentenceData):
    """Premises or finished triplets."""

    # True: the first column's sentences are premises, the language model of stage 1 writes the rest
    generate: bool = False
    spoil: SpoilConfig = field(default_factory=SpoilConfig)  # of data.source=nli


@dataclass
class Stage1Config:
    """Triplets written by a language model."""

    enabled: bool = False  # contrastive decoding; False: the instruction alone
    model: str = (
        "bundled:stories260k"  # folder, bundled:<name> or hub id; causal or encoder-decoder
    )
    omega: NonNegative = 0.3  # weight of the logits under the opposite instruction
    # only tokens of at least this share of the likeliest one's probability; None: 0.1 for causal
    # models, off for encoder-decoders; 0: off
    plausibility: Probability | None = None
    sample: bool = False  # draw at temperature 1 in place of the best token
    max_new_tokens: Count = 256
    batch_size: Count = 16
    instruction: Literal["plain", "paraphrase", "concise", "details"] = "plain"
    # entailment and contradiction: whole prompts with the place {premise}, examples included, such
    # as those of the release; {}: our own words with `instruction`
    prompts: dict[str, str] = field(default_factory=dict)
    compare_plain: bool = False  # also decode greedily and note whether the outputs differ

    def __post_init__(self) -> None:
        if self.prompts and set(self.prompts) != {"entailment", "contradiction"}:
            raise ValueError("stage1.prompts has two keys, entailment and contradiction, or none")
        for kind, prompt in self.prompts.items():
            if "{premise}" not in prompt:
                raise ValueError(f"stage1.prompts.{kind} needs the place {{premise}}")
        if self.prompts and self.instruction != "plain":
            raise ValueError("stage1.instruction chooses among our own prompts: leave it plain")


@dataclass
class Stage2Config:
    """Self-curation: similarities in [0, 5], reversal, filter."""

    enabled: bool = False
    # what grades a pair; file: columns of data.file or stage2.scores; lm: a language model;
    # words: classifier on words, trained on labelled NLI pairs of other premises; overlap: TF-IDF
    judge: Literal["file", "lm", "words", "overlap"] = "file"
    scores: str | None = None  # judge=file: CSV that `make run TASK=score` wrote, joined by content
    score_model: str = "bundled:stories260k"
    # of causal models: text parses the answer, expectation averages over the digits 0 to 5
    read: Literal["text", "expectation"] = "text"
    # of a language model, with the places {first} and {second}; None: our own words
    prompt: str | None = None
    batch_size: Count = 16
    alpha: Grade = 3.0
    beta: Grade = 3.0
    gamma: NonNegative = 1.0
    gap_mode: Literal["paper", "official_neq"] = "paper"
    preset: Annotated[int, between(2, 18)] | None = None  # type of the released script
    # controls that keep as many triplets as the rule does: drawn, nearest by words, those without
    # error
    keep: Literal["rule", "random", "overlap", "oracle"] = "rule"

    def __post_init__(self) -> None:
        if self.prompt is None:
            return
        if self.judge != "lm":
            raise ValueError(f"stage2.prompt asks a language model, stage2.judge={self.judge} none")
        if "{first}" not in self.prompt or "{second}" not in self.prompt:
            raise ValueError("stage2.prompt needs the places {first} and {second}")


@dataclass
class Stage3Config:
    """Masking of false negatives in the batch by a frozen encoder."""

    enabled: bool = False
    variant: Literal["masked_infonce", "official_bce"] = "masked_infonce"
    phi: Positive = 0.95  # pairs with a larger cosine are no negatives; above 1 nothing is masked
    mask_model: str = "bundled:text-encoder"  # with the student's vocabulary
    pooling: Pooling = "cls_before_pooler"
    config: dict[str, Any] | None = None  # with mask_model=random


@dataclass
class TaskIo:
    """Files of `make run TASK=generate`, `score` and `filter`."""

    input: str | None = None  # score, filter: CSV; None: the triplets of the config
    output: str | None = None  # CSV that is not there yet; None: in the task's folder


@dataclass
class MulticsrEval(StsEval):
    """STS, and what the minis add."""

    # folders in the BEIR layout, below data.root or bundled: zero-shot retrieval
    retrieval: list[str] = field(default_factory=list)
    triplets: bool = (
        False  # share of held-back NLI triplets whose entailment is the nearer sentence
    )


@dataclass
class Config(ExperimentConfig):
    """MultiCSR experiment."""

    data: MulticsrData = field(default_factory=MulticsrData)
    model: TextModel = field(default_factory=TextModel)
    method: SentenceLoss = field(default_factory=SentenceLoss)
    stage1: Stage1Config = field(default_factory=Stage1Config)
    stage2: Stage2Config = field(default_factory=Stage2Config)
    stage3: Stage3Config = field(default_factory=Stage3Config)
    files: TaskIo = field(default_factory=TaskIo)
    task: RowMapConfig = field(default_factory=RowMapConfig)
    eval: MulticsrEval = field(default_factory=MulticsrEval)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stage1.enabled and not self.data.generate:
            raise ValueError(
                "stage1.enabled=true writes triplets: set data.generate=true, or leave stage 1 out "
                "for triplets made elsewhere"
            )
        spoilt = self.data.spoil != SpoilConfig()
        if spoilt and (self.data.source != "nli" or self.data.generate):
            raise ValueError("data.spoil is for data.source=nli without data.generate")
