"""What can be set in a WhitenedCSE experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.data.text.options import RepetitionConfig
from common.families.sentences.config import (
    SearchConfig,
    SentenceData,
    SentenceLoss,
    StsEval,
    TextModel,
)
from common.ranges import Count, NonNegative, at_least


@dataclass
class SgwConfig:
    """Shuffled group whitening of the features, in training only."""

    position: Literal["before_mlp", "after_mlp", "none"] = "before_mlp"  # none: no whitening
    groups: Count = (
        128  # G, divides the encoder's dimension; 1: all channels together, no shuffling
    )
    shuffle: bool = True  # a new permutation of the channels for every view and step
    method: Literal["zca", "pca", "cholesky"] = "zca"
    detach_whitening: bool = True  # no gradient through the whitening matrix, as released
    ridge: NonNegative = 1e-5  # on degenerate groups, times the group's largest eigenvalue; 0: none
    # view: a block is one view of all sentences (paper); official: the flat sentence-major rows are
    # cut into num_pos consecutive blocks, so that the views of a sentence share a block (released)
    block_layout: Literal["view", "official"] = "view"
    sync: bool = False  # statistics and permutations over all ranks


@dataclass
class EvalConfig(StsEval):
    """STS, and the measures of the mechanism."""

    whitening_sentences: Annotated[int, at_least(2)] = (
        2000  # training sentences that the offline whitening is fitted on
    )


@dataclass
class Config(ExperimentConfig):
    """WhitenedCSE experiment; num_pos=2 and sgw.position=none is unsupervised SimCSE."""

    data: SentenceData = field(default_factory=SentenceData)
    model: TextModel = field(default_factory=lambda: TextModel(pooling="cls_before_pooler"))
    num_pos: Annotated[int, at_least(2)] = (
        3  # m, views of a sentence: one anchor and m - 1 positives
    )
    sgw: SgwConfig = field(default_factory=SgwConfig)
    repetition: RepetitionConfig = field(default_factory=lambda: RepetitionConfig(level="none"))
    method: SentenceLoss = field(default_factory=SentenceLoss)
    eval: EvalConfig = field(default_factory=EvalConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.pooling == "cls":
            raise ValueError(
                "model.pooling=cls has a dense layer of its own, and whitening comes before that "
                "layer here: set model.pooling=cls_before_pooler"
            )
        if self.data.source == "nli":
            raise ValueError("data.source=nli holds triplets; all views here are one sentence")
