"""Config sections of the fine-tuning, the evaluation and the preparation of data."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.families.retrieval.config import RetrievalEval
from common.ranges import Count, Positive, Seed, Whole, not_empty


@dataclass
class FinetuneConfig:
    """The second stage: queries against the code of the batch."""

    steps: Whole = 0  # with epochs null and 0: no fine-tuning
    epochs: Positive | None = None  # instead of steps
    lr: Positive | None = None  # None: optim.lr
    warmup_steps: Whole = 0
    logit_scale: Positive = 20.0  # multiplies the cosines

    def __post_init__(self) -> None:
        if self.steps and self.epochs is not None:
            raise ValueError("finetune.steps and finetune.epochs are both set; null one")

    @property
    def wanted(self) -> bool:
        """Whether there is a second stage."""
        return self.steps > 0 or self.epochs is not None


@dataclass
class CodeEval(RetrievalEval):
    """MRR and Recall@1, @5, @10 of the functions of a whole code base."""

    part: Literal["valid", "test"] = "test"
    max_rank: Count = 1000  # MRR: a function found later counts as not found
    names: Annotated[list[Literal["hidden", "visible"]], not_empty] = field(
        default_factory=lambda: ["hidden", "visible"]
    )  # bundled: the function's own name in its code
    # folder of CoSQA, below data.root: one more set; cosqa_<part> beside data.source=cosqa
    cosqa: str | None = None
    cosqa_part: Literal["dev", "test"] = "dev"
    whitened: bool = False  # also whitened_*: vectors whitened on each whole code base
    sample: Count = 1000  # pairs whose alignment and uniformity are measured

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalize_text or self.lower_case:
            raise ValueError(
                "eval.normalize_text and eval.lower_case would change code, whose signs and"
                " capitals have a meaning: leave them false and prepare queries in their files"
            )


@dataclass
class PrepareConfig:
    """`make run TASK=prepare`: CodeSearchNet's archives and lists of URLs -> rows with typed pieces."""

    input: str | None = None  # folder of the languages' folders
    output: str | None = None  # None: the task's
    seed: Seed = 0
