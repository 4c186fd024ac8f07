"""What can be set in an ESimCSE experiment."""

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
from common.ranges import Probability, Whole, at_least


@dataclass
class EsimcseData(SentenceData):
    """Training sentences."""

    equal_parts: bool = False  # draw limit / len(parts) sentences from each part

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == "nli":
            raise ValueError("data.source=nli holds triplets; ESimCSE trains on single sentences")
        if self.equal_parts and (not self.parts or not self.limit or self.limit % len(self.parts)):
            raise ValueError(
                "data.equal_parts needs data.parts and a data.limit that divides among them"
            )
        if self.equal_parts and self.source != "sentences":
            raise ValueError(
                "data.equal_parts draws from the bundled sentences, not from"
                f" data.source={self.source}: set data.equal_parts=false"
            )


@dataclass
class MomentumConfig:
    """Encoder of the queue's keys."""

    decay: Probability = 0.995  # lambda; 0: the online encoder without dropout, no second network
    init: Literal["pretrained", "random"] = "pretrained"  # random: as released
    order: Literal["before_step", "after_step"] = "before_step"  # of the optimiser

    def __post_init__(self) -> None:
        if self.init == "random" and self.decay == 0:
            raise ValueError("momentum.init=random needs a second network: momentum.decay > 0")


@dataclass
class QueueConfig:
    """Earlier keys as further negatives."""

    size: Whole = 160  # Q; 0: no queue and no momentum encoder


@dataclass
class LengthConfig:
    """Length-bias probe."""

    threshold: Whole = 3  # pairs whose numbers of words differ by more are judged apart
    sentences: Annotated[int, at_least(4)] = (
        2000  # held-out sentences of the linear probe, halved into fit and test
    )


@dataclass
class Config(ExperimentConfig):
    """ESimCSE experiment; without repetition and queue it is unsupervised SimCSE."""

    data: EsimcseData = field(default_factory=EsimcseData)
    model: TextModel = field(default_factory=TextModel)
    method: SentenceLoss = field(default_factory=SentenceLoss)
    repetition: RepetitionConfig = field(default_factory=RepetitionConfig)
    momentum: MomentumConfig = field(default_factory=MomentumConfig)
    queue: QueueConfig = field(default_factory=QueueConfig)
    eval: StsEval = field(default_factory=StsEval)
    length: LengthConfig = field(default_factory=LengthConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
