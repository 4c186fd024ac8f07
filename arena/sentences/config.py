"""What can be set in the arena of sentences."""

from dataclasses import dataclass, field

from arena.losses import LossConfig
from common.config import ExperimentConfig
from common.families.sentences.config import SearchConfig, SentenceData, StsEval, TextModel


@dataclass
class Config(ExperimentConfig):
    """One training of one contestant."""

    data: SentenceData = field(default_factory=SentenceData)
    model: TextModel = field(default_factory=TextModel)
    loss: LossConfig = field(default_factory=LossConfig)
    eval: StsEval = field(default_factory=StsEval)
    search: SearchConfig = field(default_factory=SearchConfig)
