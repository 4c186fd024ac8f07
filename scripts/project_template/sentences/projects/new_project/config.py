"""What can be set; values are in configs/new_project. Nothing heavy is imported here."""

from dataclasses import dataclass, field

from common.config import ExperimentConfig
from common.evaluation.retrieval.options import SearchConfig
from common.families.sentences.config import SentenceData, StsEval, TextModel
from common.ranges import NonNegative, Positive


@dataclass
class MethodConfig:
    """The objective."""

    temperature: Positive = 0.05  # tau, divides the cosines
    pull_weight: NonNegative = 1.0  # lambda, of the squared distance between the views


@dataclass
class Config(ExperimentConfig):
    """NewProject experiment."""

    data: SentenceData = field(default_factory=SentenceData)
    model: TextModel = field(default_factory=TextModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: StsEval = field(default_factory=StsEval)
    search: SearchConfig = field(default_factory=SearchConfig)
