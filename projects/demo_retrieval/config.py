"""What can be set; values stand in configs/demo_retrieval. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.ranges import Count, NonNegative, at_least
from projects.demo_retrieval.options import (
    AnswerConfig,
    DemoData,
    DenoiseConfig,
    FewShotConfig,
    FinetuneConfig,
    GeneratorConfig,
    RetrieverConfig,
)

Selection = Literal["retrieved", "random_task", "random_bank", "passages", "none"]


@dataclass
class MethodConfig:
    """Demonstrations and their coupling with the generator."""

    selection: Selection = "retrieved"
    k: Annotated[int, at_least(1)] = 5  # demonstrations of an input
    coupling: Literal["token", "sequence"] = "token"  # RAG-Token, RAG-Sequence
    reduction: Literal["tokens", "sequences"] = "tokens"  # mean over tokens, or sums over sequences


@dataclass
class EvalConfig:
    """Evaluation of the targets."""

    split: Literal["test", "dev"] = "test"
    limit: Count | None = None  # inputs of each target
    num_beams: Count = 1
    max_new_tokens: Count = 35
    batch_size: Count = 32  # inputs of a pass, K copies each
    generate: bool = True  # tasks with labels: free answers beside the ranked labels
    rank: bool = True  # tasks with labels: by likelihood
    headline: Literal["generated", "ranked"] = "generated"  # which of the two is `accuracy`
    gold: bool = False  # copy test: the only demonstration is the input itself with its answer

    def __post_init__(self) -> None:
        if not (self.generate if self.headline == "generated" else self.rank):
            raise ValueError(
                f"eval.headline={self.headline}, but such answers are off: see eval.generate,"
                " eval.rank"
            )


@dataclass
class Config(ExperimentConfig):
    """Experiment with demonstration retrieval; `trainer` and `optim` are those of meta-training."""

    data: DemoData = field(default_factory=DemoData)
    model: GeneratorConfig = field(default_factory=GeneratorConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    meta: bool = True  # False: fine-tuning alone
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    finetune_epochs: NonNegative = 0.0  # in place of finetune.max_steps
    eval: EvalConfig = field(default_factory=EvalConfig)
    answer: AnswerConfig = field(default_factory=AnswerConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune_epochs and self.finetune.max_steps:
            raise ValueError("finetune_epochs and finetune.max_steps are both set; zero one")
        if not (self.meta or self.finetune_epochs or self.finetune.max_steps):
            raise ValueError(
                "nothing is trained: set meta=true, finetune.max_steps or finetune_epochs"
            )
        if self.trainer.val_every_n_steps is not None:
            raise ValueError(
                "meta-training has no development part: set finetune.val_every_n_steps in place of"
                " trainer.val_every_n_steps"
            )
        if self.meta and not self.data.meta:
            raise ValueError("data.meta names no task of meta-training; or set meta=false")
        if (self.method.selection == "passages") != (self.data.passages is not None):
            raise ValueError("method.selection=passages and data.passages belong together")
        if self.model.encoder is not None and (
            self.model.pretrained != "random" or self.model.config
        ):
            raise ValueError("model.encoder stands in place of model.pretrained and model.config")
