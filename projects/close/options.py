"""Sections of the tasks of `make run`."""

from dataclasses import dataclass, field
from typing import Literal

from common.decoding.options import ServerConfig
from common.ranges import Count, Positive, Real, Share

__all__ = ["CaptionConfig", "GenerateConfig", "ServerConfig"]


@dataclass
class CaptionConfig:
    """`make run TASK=caption`: text for your own pictures."""

    run: str | None = None  # folder written by `make export`; another one is another style
    inputs: list[str] = field(default_factory=list)  # pictures
    texts: list[str] = field(default_factory=list)  # sentences in place of pictures
    context: str | None = None  # the question, hypothesis or article that goes with each


@dataclass
class GenerateConfig:
    """`make run TASK=generate`: a training set written by a language model, in chunks."""

    # captions from two keywords; captions in the first person; captions in the words of characters
    kind: Literal["captions", "egocentric", "character"] = "captions"
    model: str | None = None  # any causal or encoder-decoder model; or generator.endpoint
    output: str = "texts.json"  # a list of strings
    count: Count = 1000  # captions, or of the rewritten kinds outputs
    instruction: str | None = None  # None: that of the kind
    # captions: JSON lines {"keywords": [...], "caption": ...}; others: {"source", "target"}; None: ours
    demonstrations: str | None = None
    num_demonstrations: Count = 20  # 50 for GPT-J
    keywords: str | None = (
        None  # captions: a file of words or sentences; None: nouns of the drawings
    )
    draw: Literal["uniform", "unigram"] = "uniform"  # of the keywords
    sources: str | None = None  # others: a file of captions to rewrite, one a line
    characters: list[str] = field(default_factory=list)  # character: names; None of ours is in them
    stories: str | None = (
        None  # character: a file of excerpts, one a line, that stand in the prompt
    )
    temperature: Positive = 1.0
    top_p: Share = 1.0
    max_new_tokens: Count = 64
    best_of: Count = 3  # the likeliest of so many draws is kept
    frequency_penalty: Real = 2.0  # times the number of times that a token was written
    presence_penalty: Real = 1.0  # once for every token that was written
    ngram_filter: bool = False  # drop texts with n-grams that many others have
    batch_size: Count = 16
    device: str = "auto"
