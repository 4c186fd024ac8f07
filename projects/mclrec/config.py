"""What can be set in an MCLRec experiment."""

from dataclasses import dataclass, field

from common.config import ExperimentConfig
from common.data.recommendation.options import SequenceData
from common.ranges import Count, Counts, Rate
from projects.mclrec.method import MethodConfig
from projects.mclrec.options import EvalConfig, PrepareConfig, RecommendConfig

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
