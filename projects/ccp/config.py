"""What can be set in a CCP experiment."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.families.retrieval.config import SearchConfig
from common.ranges import Count, Inner, NonNegative, Positive, Share
from projects.ccp.options import (
    SIMULATED,
    CalibrateConfig,
    CCPData,
    CCPEval,
    CCPFinetune,
    CCPModel,
    SetsConfig,
    SplitConfig,
)


@dataclass
class MethodConfig:
    """The objective of the pre-training."""

    pretrain: bool = True  # False: fine-tuning alone, from the encoder as it is
    temperature: Positive = 0.1  # tau
    norm: Literal["asymmetric", "plain", "none"] = "asymmetric"  # of the head; ablation: the others
    last_norm: bool = True  # a second norm after the last linear map
    norm_eps: Positive = 1.0e-12
    norm_momentum: Share = 0.1  # how far the running statistics move in a step
    bank_size: Count = 4096  # rows of all languages together; a step writes two for each pair
    language_bank: bool = True  # an equal part for each; False: one for all languages (ablation)
    # own: contexts against contexts, as in the equations
    bank_sides: Literal["both", "own"] = "both"
    bank_initial: Literal["masked", "random"] = "masked"  # random: as released with MSM
    in_batch_negatives: bool = True  # False: the bank alone
    cts_weight: NonNegative = 1.0  # of the two directions
    mlm_weight: NonNegative = 1.0  # 0: no masked language model
    mlm_probability: Inner = 0.15
    mlm_every: Count = 4  # one of how many centres is masked as well
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class Config(ExperimentConfig):
    """CCP experiment."""

    data: CCPData = field(default_factory=CCPData)
    model: CCPModel = field(default_factory=CCPModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    finetune: CCPFinetune = field(default_factory=CCPFinetune)
    eval: CCPEval = field(default_factory=CCPEval)
    search: SearchConfig = field(default_factory=SearchConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    sets: SetsConfig = field(default_factory=SetsConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)

    @property
    def simulated(self) -> bool:
        """Whether one of the languages is `SIMULATED`."""
        return self.data.source != "files"

    def __post_init__(self) -> None:
        super().__post_init__()
        method = self.method
        if not method.pretrain and not self.finetune.steps:
            raise ValueError("method.pretrain=false needs finetune.steps: nothing would be trained")
        if method.pretrain and method.mlm_weight and self.data.batch_size < method.mlm_every:
            raise ValueError("data.batch_size < method.mlm_every leaves ranks without masked rows")
        if method.pretrain and self.simulated and self.model.pretrained != "random":
            raise ValueError(
                "the simulated language has pieces of its own: it needs model.pretrained=random, "
                "or real languages in data.languages with data.source=files"
            )
        if self.eval.pseudo_bitext and not self.simulated:
            raise ValueError("eval.pseudo_bitext is for the simulated language: use eval.bitext")
        own = {"en", SIMULATED} if self.simulated else {*self.data.languages}
        needed = {language for pair in self.eval.bitext for language in pair.split("-")}
        without = sorted(needed - own - {*self.eval.monolingual})
        if without:
            raise ValueError(
                f"eval.bitext: '{without[0]}' has no text to calibrate with: name a .jsonl file in "
                f"eval.monolingual.{without[0]}"
            )
        questions = self.finetune.file or (self.eval.held_out_queries and self.eval.beir)
        if self.finetune.steps and not questions:
            raise ValueError(
                "fine-tuning needs questions: finetune.file, or eval.held_out_queries of eval.beir"
            )
