"""What can be set in an MCLRec experiment."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.data.recommendation.options import SequenceData
from common.ranges import Count, Counts, NonNegative, Positive, Rate
from projects.mclrec.options import EvalConfig, PrepareConfig, RecommendConfig


@dataclass
class ModelConfig:
    """SASRec and the augmenters."""

    dim: Count = 64
    num_layers: Count = 2
    num_heads: Count = 2
    ffn_dim: Count = 256
    hidden_dropout: Rate = 0.5
    attention_dropout: Rate = 0.5
    length_groups: Count = 1  # passes over a batch by length; for speed alone
    augmenter_dims: Counts = field(default_factory=lambda: [32, 16])  # inner widths
    shared_augmenter: bool = False  # one for both views (ablation)


@dataclass
class MethodConfig:
    """The objective; cl1_weight = cl2_weight = 0 is SASRec with a full softmax."""

    cl1_weight: NonNegative = 0.0  # lambda, of the contrast of the augmented sequences
    cl2_weight: NonNegative = (
        0.05  # beta, of the contrasts with augmenter outputs; 0: no augmenters
    )
    cl2: bool = True  # False: beta weighs the regulariser alone (ablation)
    reg_weight: NonNegative = 0.1  # of R within the beta term: gamma = reg_weight * beta
    regulariser: Literal["rowwise", "batchwise"] = (
        "rowwise"  # thresholds of R: released code; paper
    )
    reg_pairs: Literal[3, 1] = 3  # 3: released code; 1: (z1, z2) alone, the paper
    temperature: Positive = 1.0  # of L_cl1; the terms with augmenters have none in the release
    update: Literal["meta", "joint"] = "meta"  # joint: one optimiser for all (MCLRec-J)
    steps: Literal[3, 2] = (
        3  # meta: encoder, augmenters, encoder; 2: without the last (Algorithm 1)
    )
    gather: bool = True  # in-batch negatives of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.augments and not (self.cl2 or self.reg_weight):
            raise ValueError(
                "method.cl2=false and method.reg_weight=0 leave cl2_weight nothing to weigh"
            )

    @property
    def contrasts(self) -> bool:
        """Whether augmented sequences are needed."""
        return self.cl1_weight > 0 or self.augments

    @property
    def augments(self) -> bool:
        """Whether there are augmenters."""
        return self.cl2_weight > 0

    @property
    def alternates(self) -> bool:
        """Whether a batch has several optimiser steps."""
        return self.augments and self.update == "meta"


@dataclass
class Config(ExperimentConfig):
    """MCLRec experiment."""

    data: SequenceData = field(default_factory=SequenceData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    recommend: RecommendConfig = field(default_factory=RecommendConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        trainer = self.trainer
        if self.model.dim % self.model.num_heads:
            raise ValueError("model.num_heads must divide model.dim")
        several = trainer.gradient_clip_val is not None or trainer.accumulate_grad_batches > 1
        if self.method.alternates and several:
            raise ValueError(
                "method.update=meta makes several steps on a batch: leave trainer.gradient_clip_val and "
                "trainer.accumulate_grad_batches as they are"
            )
        if self.eval.patience is not None and trainer.val_every_n_steps is None:
            raise ValueError("eval.patience needs trainer.val_every_n_steps")
