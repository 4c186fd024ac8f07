"""What can be set in a Mirror-BERT experiment."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.families.sentences.config import (
    SearchConfig,
    SentenceData,
    SentenceLoss,
    StsEval,
    TextModel,
)
from common.ranges import Count, Positive, Rate, Whole

Source = Literal["synthetic", "sentences", "lexicon", "file"]


@dataclass
class MirrorData(SentenceData):
    """Raw strings."""

    # sentences: half STS-B training text, half sentences-en; lexicon: half ESCO titles, half
    # WordNet lemmas; file: one string per line
    source: Source = "sentences"  # type: ignore[assignment]
    pairwise: bool = False  # file: lines of text1||text2, other lines are skipped
    dedup: bool = False  # file: keep one of equal lines

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source != "file" and (self.pairwise or self.dedup):
            raise ValueError("data.pairwise and data.dedup need data.source=file")


@dataclass
class AugmentConfig:
    """Random span masking of the second view."""

    span_chars: Whole = 5  # k characters; 0: off
    min_chars: Whole = 30  # shorter strings are not masked
    mask: Literal["literal", "tokenizer"] = "literal"  # "[MASK]", or the tokenizer's own mask token


@dataclass
class MirrorModel(TextModel):
    """Encoder and the perturbations of its features.

    The official code's `cls` is pooling=cls_before_pooler here, its `mean` (padding included, fixed
    length) avg_all, its `mean_std` avg.
    """

    drop_head: Rate = 0.0  # probability of dropping a head in training; the paper: or dropout

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling == "cls" or self.mlp_only_train:
            raise ValueError(
                "Mirror-BERT adds no parameters: take model.pooling=cls_before_pooler, the last "
                "layer's state of [CLS], and mlp_only_train=false"
            )
        if self.pooling == "avg_all" and self.max_length is None:
            raise ValueError("model.pooling=avg_all pads to a fixed length: set model.max_length")


@dataclass
class MethodConfig(SentenceLoss):
    """The objective."""

    temperature: Positive = 0.04  # tau, divides the cosines; 0.2 at word level


@dataclass
class MirrorEval(StsEval):
    """STS, lexical retrieval and word similarity."""

    level: Literal["sentence", "lexical"] = "sentence"  # gives level_score: STS, or ESCO Recall@1
    titles: Literal["dev", "test", "none"] = "test"  # ESCO occupations whose titles are queries
    num_titles: Count = 2000  # queries, a fixed draw
    word_pairs: list[str] = field(default_factory=list)  # .csv or tab-separated, below data.root
    # their columns: text, text, score; these are SimLex-999's
    word_columns: list[str] = field(default_factory=lambda: ["word1", "word2", "SimLex999"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.word_columns) != 3:
            raise ValueError("eval.word_columns names three columns: text, text, score")
        if self.level == "lexical" and self.titles == "none":
            raise ValueError("eval.level=lexical needs eval.titles=dev or test")


@dataclass
class Config(ExperimentConfig):
    """Mirror-BERT experiment."""

    data: MirrorData = field(default_factory=MirrorData)
    model: MirrorModel = field(default_factory=lambda: MirrorModel(pooling="avg"))
    method: MethodConfig = field(default_factory=MethodConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    eval: MirrorEval = field(default_factory=MirrorEval)
    search: SearchConfig = field(default_factory=SearchConfig)
