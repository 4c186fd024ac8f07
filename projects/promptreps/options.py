"""What can be set in the tasks of a PromptReps experiment."""

from dataclasses import dataclass
from typing import Literal

from common.evaluation.retrieval.options import SearchConfig
from common.ranges import Probability


@dataclass
class HybridSearchConfig(SearchConfig):
    """`make run TASK=search`."""

    alpha: Probability = 0.5
    zero_shot: bool = False  # search with model.pretrained, no run is needed


@dataclass
class EncodeConfig:
    """`make run TASK=encode`: a collection as files of vectors, in parts that can be shared out."""

    # folder in the BEIR layout (as named, below data.root or bundled), or texts as search.file
    input: str | None = None
    output: str | None = None  # folder; None: the task's
    # query: of a folder in the BEIR layout the queries are read, not the documents
    role: Literal["passage", "query"] = "passage"
    run: str = "latest"  # a run of this config, or a folder written by `make export`
    zero_shot: bool = False
    pickle: bool = False  # also write Tevatron's pickle of (vectors, ids)
