"""What can be set in an experiment of MOFI."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.ranges import Count, NonNegative, Positive, Probability, at_least

from projects.mofi.options import (  # isort: skip
    AnnotateConfig,
    BuildConfig,
    EntityData,
    EntityEval,
    EntityTowers,
    FilterConfig,
    SearchConfig,
    SelectConfig,
)


@dataclass
class MethodConfig:
    """The three recipes."""

    recipe: Literal["supervised", "contrastive", "multitask"] = "multitask"
    cls_weight: Probability = 0.9  # lambda of multitask; supervised is 1, contrastive 0
    margin: NonNegative = 0.15  # m, of the true class, in training
    margin_on: Literal["cosine", "angle"] = "cosine"  # CosFace or ArcFace
    scale: Positive = 32.0  # s of the classifier
    sampled: Count = 524288  # N', classes of a step
    sampling: Literal["uniform", "frequency"] = "uniform"
    frequency_power: Probability = 0.5  # odds of a class are its images to this power
    logq_correction: bool = False  # of frequency sampling
    # an image's texts of entities that it shares with others: no negatives, negatives, or positives
    same_entity: Literal["masked", "negative", "positive"] = "masked"
    num_classes: Count | None = None  # C of a set that is not on disk, for `make check`
    class_lr_scale: Positive = 1.0  # times optim.lr, of class vectors
    class_weight_decay: NonNegative = 0.0
    class_moments: Literal["full", "row"] = "full"  # row: one number a class
    class_std: Annotated[float, at_least(1e-6)] = 0.02  # of their initialisation


@dataclass
class Config(ExperimentConfig):
    """One recipe on images with entities."""

    data: EntityData = field(default_factory=EntityData)
    model: EntityTowers = field(default_factory=EntityTowers)
    method: MethodConfig = field(default_factory=MethodConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    eval: EntityEval = field(default_factory=EntityEval)
    build: BuildConfig = field(default_factory=BuildConfig)
    annotate: AnnotateConfig = field(default_factory=AnnotateConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)  # build with extractor=lm
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        method = self.method
        if self.model.open_clip is None:
            raise ValueError("set model.open_clip; this project trains open_clip's towers")
        if self.data.source == "jsonl" and self.data.files is None:
            raise ValueError("data.source=jsonl needs data.files, a JSONL file of TASK=build")
        if method.logq_correction and method.sampling == "uniform":
            raise ValueError("method.logq_correction needs method.sampling=frequency")
        if method.recipe != "contrastive":
            if self.trainer.accumulate_grad_batches > 1:
                raise ValueError("class vectors move once a batch: accumulate_grad_batches=1")
            if self.trainer.precision == "16-mixed":
                raise ValueError("scaled gradients do not fit class vectors: precision=bf16-mixed")
            if self.trainer.strategy == "fsdp":
                raise ValueError("class vectors are sharded by themselves: trainer.strategy=ddp")
