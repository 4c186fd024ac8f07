"""What can be set in the arena of retrieval."""

from dataclasses import dataclass, field

from arena.losses import LossConfig
from common.config import ExperimentConfig
from common.families.retrieval.config import DenseModel, RetrievalEval, RetrievalSearch
from projects.contriever.config import ContrieverData


@dataclass
class Config(ExperimentConfig):
    """One training of one contestant, on Contriever's pairs of crops."""

    data: ContrieverData = field(default_factory=ContrieverData)
    model: DenseModel = field(default_factory=DenseModel)
    loss: LossConfig = field(default_factory=LossConfig)
    eval: RetrievalEval = field(default_factory=RetrievalEval)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)
