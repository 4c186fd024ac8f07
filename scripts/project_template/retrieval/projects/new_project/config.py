"""What can be set; values are in configs/new_project. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Annotated

from common.config import DataConfig, ExperimentConfig
from common.evaluation.retrieval.options import SearchConfig
from common.families.retrieval.config import DenseModel, RetrievalEval
from common.ranges import NonNegative, Positive, at_least


@dataclass
class PairData(DataConfig):
    """Queries with a relevant document each."""

    # folders in the BEIR layout, below data.root or bundled, or "synthetic"; "folder@titles" takes
    # titles as queries for the texts without them
    sets: list[str] = field(default_factory=lambda: ["retrieval-cisi@titles"])
    max_length: Annotated[int, at_least(8)] = 64  # tokens in training, special ones included


@dataclass
class MethodConfig:
    """The objective."""

    temperature: Positive = 0.05  # tau, divides the cosines
    pull_weight: NonNegative = 1.0  # lambda, of the squared distance between query and document


@dataclass
class Config(ExperimentConfig):
    """NewProject experiment."""

    data: PairData = field(default_factory=PairData)
    model: DenseModel = field(default_factory=DenseModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: RetrievalEval = field(default_factory=RetrievalEval)
    search: SearchConfig = field(default_factory=SearchConfig)
