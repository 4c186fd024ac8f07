"""Options of the world of facts, of prompts, and of the tasks that write."""

from dataclasses import dataclass, field
from typing import Literal

from common.decoding.options import DecoderConfig
from common.ranges import Count, Probability


@dataclass
class FactsConfig:
    """What WordNet's nouns are said to be, truly and by myth."""

    amateur: Count = 600  # nouns whose myths the amateur learns
    dev: Count = 200  # nouns that options are chosen on
    test: Count = 200
    # share of myths in what is said without a register; each noun has one of them
    myth_shares: list[Probability] = field(default_factory=lambda: [0.3, 0.5, 0.7])
    forum_myths: Probability = 0.85  # share of myths behind "forum"
    unverified: Probability = (
        0.4  # share of the dev and test nouns of which "verified" says nothing
    )


@dataclass
class PromptConfig:
    """What stands around a question; None: this project's own words (`projects/lol/prompts.py`)."""

    instruction: str | None = None
    demonstrations: Literal["own", "none", "file"] = "own"
    demonstrations_file: str | None = None  # JSON lines: question, answer; below data.root
    question: str = "Q: {question}\nA:"
    truthful: str | None = None  # added to the instruction by the refocus prompt
    fabricate: str | None = None  # added to it for the amateur by prompt
    chat: bool = True  # in the tokenizer's chat template, where it has one

    def __post_init__(self) -> None:
        if (self.demonstrations == "file") != (self.demonstrations_file is not None):
            raise ValueError("prompt.demonstrations_file and demonstrations=file belong together")
        if "{question}" not in self.question:
            raise ValueError("prompt.question needs the place {question}")


@dataclass
class GenerateConfig:
    """`make run TASK=generate|strategyqa|gsm8k`."""

    run: str = "latest"  # whose amateur: a run of this config, or a folder written by `make export`
    file: str | None = None  # generate: a question a line; else the set, below data.root
    shots_file: str | None = None  # JSON lines of question and answer that stand before
    method: str = "lol"  # of `methods`
    new_tokens: Count = 50
    limit: Count | None = None
    stop: str = "Q:"  # where an answer is cut
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig("nucleus", temperature=0.9, top_p=0.95)
    )  # a sampling strategy, or greedy


@dataclass
class HallucinateConfig:
    """`make run TASK=hallucinate`: false answers by any local causal LM, for `data.file`."""

    file: str | None = None  # JSON lines of question, answer and perhaps knowledge
    model: str | None = None  # None: model.pretrained
    new_tokens: Count = 48
    attempts: Count = 3  # draws until one passes the filter
    overlap: Probability = (
        0.8  # share of the true answer's words from which on an answer is dropped
    )
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig("nucleus", top_p=0.9))
