"""What can be set in an MCLRec experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from common.config import ExperimentConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, Counts, NonNegative, Positive, Probability, Rate
from projects.mclrec.data_options import SequenceData


@dataclass
class EvalConfig(OwnData):
    """Full ranking; HR@k and NDCG@k."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.LOG: Judge()}

    part: Literal["valid", "test"] = "test"
    ks: Counts = field(default_factory=lambda: [5, 10, 20])
    mask_history: bool = False  # leave out a user's own items; the paper's protocol keeps them
    noise: Probability = 0.0  # random items that are put into each test history, as a share of it
    batch_size: Count = 512
    patience: Count | None = None  # validations without a better MRR@10 that end training
    reference: bool = True  # also the untrained encoder and the baselines that count


@dataclass
class RecommendConfig:
    """`make run TASK=recommend` and `TASK=vectors`."""

    input: str | None = None  # histories, a format of data.file; None: some test users
    output: str | None = None  # None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`
    k: Count = 10
    mask_history: bool = True  # leave out what a user has taken


@dataclass
class PrepareConfig:
    """`make run TASK=prepare`: a raw log filtered by data.min_user and data.min_item."""

    input: str | None = None  # a format of data.file
    output: str | None = None  # .inter; None: in the task's folder


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
    temperature: Positive = 1.0  # of L_cl1; the terms with augmenters have none
    similarity: Literal["dot", "cosine"] = "dot"  # of L_cl1 alone, as in the release
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
        default = {field.name: field.default for field in fields(self)}
        for name, (used, need) in self._needs().items():
            if not used and getattr(self, name) != default[name]:
                raise ValueError(
                    f"method.{name}={getattr(self, name)} changes nothing without {need}: set that,"
                    " or leave it as it is"
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

    def _needs(self) -> dict[str, tuple[bool, str]]:
        """For settings that can be idle: whether they are used, and what they need to be."""
        first = (self.cl1_weight > 0, "method.cl1_weight > 0")
        meta = (self.augments, "method.cl2_weight > 0")
        reg = (self.augments and self.reg_weight > 0, f"method.reg_weight > 0 and {meta[1]}")
        return {
            "temperature": first,
            "similarity": first,
            "cl2": meta,
            "reg_weight": (self.augments or not self.reg_weight, meta[1]),  # 0 is what it says
            "update": meta,
            "steps": (self.alternates, f"method.update=meta and {meta[1]}"),
            "regulariser": reg,
            "reg_pairs": reg,
        }


RATIOS = ("crop_ratio", "mask_ratio", "reorder_ratio")


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
                "method.update=meta makes several steps on a batch: leave trainer.gradient_clip_val"
                " and trainer.accumulate_grad_batches as they are"
            )
        if self.model.shared_augmenter and not self.method.augments:
            raise ValueError("model.shared_augmenter=true needs method.cl2_weight > 0")
        changed = [x for x in RATIOS if getattr(self.data, x) != getattr(SequenceData, x)]
        if changed and not self.method.contrasts:
            raise ValueError(
                f"data.{changed[0]} shapes views that nothing is trained on: set method.cl1_weight"
                " or method.cl2_weight > 0, or leave it as it is"
            )
        if self.method.contrasts and self.data.batch_size < 2:
            raise ValueError(
                "data.batch_size=1 leaves a contrast without negatives: set it to 2 or more, or "
                "method.cl1_weight=0 and method.cl2_weight=0"
            )
        if self.eval.patience is not None and trainer.val_every_n_steps is None:
            raise ValueError("eval.patience needs trainer.val_every_n_steps")
