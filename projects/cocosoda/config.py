"""What can be set in a CoCoSoDa experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.families.retrieval.config import DenseModel, RetrievalEval, RetrievalSearch, check_queue
from common.ranges import (
    Count,
    NonNegative,
    Positive,
    Probability,
    Seed,
    Whole,
    at_least,
    not_empty,
)
from projects.cocosoda.code.options import SodaConfig
from projects.cocosoda.code.types import Language


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
    # folder of CoSQA, below data.root: one more set; cosqa_<part> alongside data.source=cosqa
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
    """`make run TASK=prepare`: CodeSearchNet's archives and URL lists -> rows with typed pieces."""

    input: str | None = None  # folder of the languages' folders
    output: str | None = None  # None: the task's
    seed: Seed = 0


Tokens = Annotated[int, at_least(8)]  # special ones included


@dataclass
class CodeData(DataConfig):
    """Pairs of queries and functions."""

    # bundled: Python docstrings; csn: CodeSearchNet, see the card; cosqa: its training queries
    source: Literal["synthetic", "bundled", "csn", "cosqa"] = "bundled"
    folder: str | None = None  # csn, cosqa: below data.root
    languages: Annotated[list[Language], not_empty] = field(default_factory=lambda: ["python"])
    language_exponent: NonNegative = 0.7  # P(language) ~ pairs ** this, drawn for each batch
    limit: Count | None = None  # bundled: training pairs, drawn by the seed; None: all
    typed: bool = True  # False: no token has a type, as in the released rows
    soda: SodaConfig = field(default_factory=SodaConfig)

    def __post_init__(self) -> None:
        if (self.source in ("csn", "cosqa")) != (self.folder is not None):
            raise ValueError("data.folder goes with data.source=csn or cosqa, which need it")
        if self.source != "csn" and self.languages != ["python"]:
            raise ValueError("data.languages: all sources but csn are Python")
        if len(set(self.languages)) < len(self.languages):
            raise ValueError("data.languages names a language twice")
        if self.limit is not None and self.source != "bundled":
            raise ValueError("data.limit is for data.source=bundled")


@dataclass
class ModelConfig(DenseModel):
    """One transformer for code and queries."""

    code_length: Tokens = 256
    query_length: Tokens = 128
    # token after [CLS], before another [SEP]: <encoder-only> of UniXcoder
    prefix: str | None = None
    split_identifiers: bool = False  # the tokenizer divides names at underscores and capitals
    # the tokenizer has a piece for each type, its embedding starts at random
    type_tokens: bool = True


@dataclass
class MethodConfig:
    """The pre-training."""

    pretrain: bool = True  # False: fine-tuning alone, from the encoder as it is
    inter_modal: bool = True  # code against queries, both ways
    intra_modal: bool = True  # code against augmented code, query against augmented query
    temperature: Positive = 0.07  # tau
    logit_scale: Positive = 1.0  # multiplies logits / tau; 20 as released
    queue_size: Whole = 1024  # K of each of the four queues; 0: none
    momentum: Probability = 0.999  # m, of the key encoder; 0: keys by the encoder itself
    # encoder of the original samples as keys; online: as released, with gradient within the batch
    original_keys: Literal["online", "momentum"] = "online"
    gather: bool = True  # in-batch negatives of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    def __post_init__(self) -> None:
        if not (self.inter_modal or self.intra_modal):
            raise ValueError("method needs inter_modal or intra_modal: no term is left")


@dataclass
class Config(ExperimentConfig):
    """CoCoSoDa experiment."""

    data: CodeData = field(default_factory=CodeData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    eval: CodeEval = field(default_factory=CodeEval)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        devices, nodes = self.trainer.devices, self.trainer.num_nodes
        count = len(devices) if isinstance(devices, list) else devices
        if self.method.pretrain and self.method.queue_size and isinstance(count, int):
            batch = self.data.batch_size * max(1, count) * nodes  # else the module checks
            check_queue(self.method.queue_size, batch * self.trainer.accumulate_grad_batches)
        if not self.method.pretrain and not self.finetune.wanted:
            raise ValueError("method.pretrain=false needs finetune.steps or finetune.epochs")
        if self.method.pretrain and self.method.momentum and self.trainer.precision == "bf16-true":
            raise ValueError("trainer.precision=bf16-true freezes the key encoder: use bf16-mixed")
        replacing = {*self.data.soda.strategies} - {"mask", "mask_type"}
        if self.method.pretrain and replacing and not self.model.type_tokens:
            raise ValueError("replacing tokens by their types needs model.type_tokens")
        if max(self.model.code_length, self.model.query_length) > self.model.max_length:
            raise ValueError("model.max_length is below model.code_length or model.query_length")
