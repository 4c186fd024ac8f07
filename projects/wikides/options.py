"""Sections of phase I's model and of the tasks."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.ranges import Count, Counts, Probability, Rate, Whole, at_least

Tokens = Annotated[int, at_least(4)]  # special ones included


@dataclass
class GeneratorModel:
    """Phase I: an encoder-decoder of transformers."""

    pretrained: str = "t5-small"  # folder, hub id, bundled:<name> or random
    config: dict[str, Any] | None = None  # with random: model_type and its fields
    tokenizer: str | None = None  # with random: of other weights; None: the built-in one
    dropout: Rate | None = None  # every dropout probability; None: the model's own
    max_source: Tokens = 256
    max_target: Tokens = 32  # in training
    max_new_tokens: Count = 256  # in decoding; no more than the decoder has positions
    beams: Count = 1  # of the evaluation


@dataclass
class CollectConfig:
    """`make run TASK=collect`: records of Wikidata items to the files of phase I, both splits."""

    # JSON lines: wikidata_id, label, description, instances [[id, name], ...], subclasses,
    # first_paragraph, perhaps first_sentence
    input: str | None = None
    output: str | None = None  # folder; None: the task's
    kind: Literal["para", "sen", "para_wd", "sen_wd"] = "para"  # source text; wd: instances added
    max_words: Count = 256  # of the source text
    min_sentence_words: Whole = 10  # items with a shorter first sentence are dropped
    # of the random split, as the release's README has it (its script drops them in both splits)
    keep_without_instances: bool = True
    train_share: Probability = 0.8  # occurrences that the topics of the training part make up


@dataclass
class CandidatesConfig:
    """`make run TASK=candidates`: records of phase I to those of phase II."""

    input: str | None = None  # {"source", "target", "baseline_candidates"?} a line
    output: str | None = None  # .jsonl; None: in the task's folder
    generator: str | None = None  # exported folder or hub id of an encoder-decoder
    # beams of each search; what the first one writes is phase I's own text
    widths: Counts = field(default_factory=lambda: list(range(1, 26)))
    max_new_tokens: Count = 256
    max_source: Count = 256  # tokens
    baselines: bool = True  # the names of the instances are candidates too
    batch_size: Count = 16
    device: str = "auto"


@dataclass
class RankConfig:
    """`make run TASK=rank`: candidates in the order of a trained ranker."""

    input: str | None = None  # {"source", "candidate": [...]} a line; None: some test rows
    output: str | None = None  # .jsonl; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`


@dataclass
class DescribeConfig:
    """`make run TASK=describe`: paragraphs to descriptions, both phases in one."""

    input: str | None = None  # text file, a paragraph a line
    output: str | None = None  # .jsonl; None: in the task's folder
    generator: str | None = None  # exported folder or hub id of an encoder-decoder
    widths: Counts = field(default_factory=lambda: [1, 2, 5, 10])  # beams of each search
    max_new_tokens: Count = 64
    max_source: Count = 256  # tokens, as of the candidates
    run: str = "latest"  # of the ranker


@dataclass
class FormConfig:
    """`make run TASK=form`: a blind form for raters, gold against phase I against phase II."""

    # {"source", "gold", "phase1", "phase2"} a line; None: test rows that have phase1, ranked
    input: str | None = None
    items: Count = 100  # the first so many rows


@dataclass
class ChoicesConfig:
    """`make run TASK=choices`: what the raters chose."""

    forms: list[str] = field(default_factory=list)  # filled in, one a rater
    key: str | None = None  # written with the form


@dataclass
class SentimentConfig:
    """`make run TASK=sentiment`: polarity of paragraphs, gold and generated descriptions."""

    # {"source", "gold", "phase1"?, "phase2"?} a line; None: the test rows, ranked
    input: str | None = None
    model: str | None = None  # folder or hub id of a sequence classifier
    labelled: str | None = None  # instead: {"text", "label"} a line to train a bag of words on
    batch_size: Count = 32
