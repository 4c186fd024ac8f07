"""What can be set; values stand in configs/vega. Nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import ExperimentConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import (
    Count,
    NonNegative,
    Positive,
    Rate,
    Seed,
    Share,
    Whole,
    at_least,
    not_empty,
)
from projects.vega.glue.config import (
    GlueData,
    SelfCalibrationConfig,
    SiftConfig,
    SubmitConfig,
    TransductiveConfig,
)


@dataclass
class PretrainConfig:
    """Phase 1, replaced-token detection; phase 2, the same with a contrast of sentences."""

    texts: Literal["sentences", "synthetic", "file"] = "sentences"  # sentences: the bundled ones
    file: str | None = None  # texts=file: one text per line, here or below data.root
    limit: Count | None = None  # texts, drawn by the seed
    packed: bool = False  # rows of max_length tokens that run over texts; else a row is a text
    max_length: Annotated[int, at_least(8)] = 64  # tokens of a row, special ones included
    sentence_length: Annotated[int, at_least(8)] = 64  # of a sentence of the contrast
    mask_share: Share = 0.15  # of the tokens, single ones, all shown as the mask
    mask_limit: Share = 0.2  # at most
    temperature: Positive = 1.0  # of the generator's samples
    generator_depth_ratio: Share = 0.5  # layers of the generator
    embedding_sharing: Literal["gdes", "es", "none"] = "gdes"
    add_cls: bool = True  # the detector reads the first token's state alongside each token's own
    decoupled: bool = False  # a step of the generator, then one of the discriminator
    rtd_lambda: NonNegative = 50.0
    cl_gamma: NonNegative = 0.1
    cl_tau: Positive = 0.05
    # vector that is scored and exported: the first token's state, which the contrast trains, or the
    # mean
    pooling: Literal["cls", "avg"] = "avg"
    phase1_steps: Whole = 0
    phase2_steps: Whole = 0
    phase2_lr: Positive | None = None  # None: optim.lr
    phase2_batch_size: Count | None = None  # per device; None: data.batch_size
    phase2_warmup: Whole | None = None  # steps; None: optim.warmup_steps
    # checkpoint of phase 1 of another run, in place of training it
    phase1_weights: str | None = None

    def __post_init__(self) -> None:
        if (self.texts == "file") != (self.file is not None):
            raise ValueError("pretrain.file and pretrain.texts=file belong together")
        if self.decoupled and self.embedding_sharing == "es":
            raise ValueError(
                "pretrain.embedding_sharing=es trains one table by both losses: it needs"
                " pretrain.decoupled=false"
            )


@dataclass
class VegaModel:
    """The encoder."""

    # what training starts from, see common.encoders.resolve_pretrained; a BERT's content weights
    # become an encoder with disentangled attention when it is pre-trained
    pretrained: str = "bundled:text-encoder"
    # with pretrained=random: see projects.vega.encoders.disentangled
    size: str | None = None
    random_start: bool = False  # fine-tune random weights, which is of use in dry runs alone
    # fields of the architecture in place of the size's own; of the encoder that a BERT becomes
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None  # with random: of other weights; None: the built-in one
    # fine-tuning: context, a dense layer with GELU on the first token (disentangled encoders);
    # cls or mean, the bare vector
    pooling: Literal["context", "cls", "mean"] = "context"
    dropout: Rate | None = None  # of the encoder; None: its own
    head_dropout: Rate = 0.2
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    max_length: Annotated[int, at_least(8)] = 128  # of a row of fine-tuning; the longer text is cut
    length_groups: Count = 1  # passes over a training batch, by length

    def __post_init__(self) -> None:
        if (self.pretrained == "random") != (self.size is not None):
            raise ValueError("model.size and model.pretrained=random belong together")


@dataclass
class VegaEval(OwnData):
    """What is scored."""

    judges: ClassVar[Mapping[Layout, Judge]] = {Layout.LABELLED: Judge()}

    # test: scored where its labels are public, as those of the bundled set; else it is predicted
    # alone
    part: Literal["test", "dev"] = "dev"
    batch_size: Count = 128
    sets: list[str] = field(default_factory=lambda: ["stsb-test"])  # STS sets, of pre-training
    held_out: Count = 512  # texts on which detection is measured
    # validate once an epoch where trainer.val_every_n_steps is not set; steps of an epoch are
    # rounded
    every_epoch: bool = False
    # deviation of a change of the embeddings under which logits are compared
    noise: NonNegative = 0.0


@dataclass
class SelectConfig:
    """`make run TASK=select`: which combination of strategies, by development data alone."""

    # name -> weights that fine-tuning starts from (pretrained: strings); {}: model.pretrained
    starts: dict[str, str] = field(default_factory=dict)
    tasks: list[str] = field(default_factory=list)  # []: data.task
    tricks: list[str] = field(default_factory=lambda: ["sift", "self_calibration", "transductive"])
    seeds: Annotated[list[Seed], not_empty] = field(default_factory=lambda: [0, 1, 2])


@dataclass
class ClassifyConfig:
    """`make run TASK=classify`: labels of your own texts."""

    run: str = "latest"  # run of this config, or a folder written by `make export`
    input: str | None = None  # one text per line; of a pair, separated by a tab


@dataclass
class TableConfig:
    """`make run TASK=table`: scores next to the leaderboard, the human scores and the ablation."""

    runs: list[str] = field(default_factory=list)  # folders; []: all finished runs of the project


@dataclass
class Config(ExperimentConfig):
    """Experiment on a recipe for GLUE."""

    train: Literal["finetune", "pretrain"] = "finetune"
    data: GlueData = field(default_factory=GlueData)
    model: VegaModel = field(default_factory=VegaModel)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sift: SiftConfig = field(default_factory=SiftConfig)
    self_calibration: SelfCalibrationConfig = field(default_factory=SelfCalibrationConfig)
    transductive: TransductiveConfig = field(default_factory=TransductiveConfig)
    eval: VegaEval = field(default_factory=VegaEval)
    select: SelectConfig = field(default_factory=SelectConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    submit: SubmitConfig = field(default_factory=SubmitConfig)
    table: TableConfig = field(default_factory=TableConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train == "pretrain" and not self.pretrain.phase1_steps + self.pretrain.phase2_steps:
            raise ValueError("train=pretrain: set pretrain.phase1_steps or pretrain.phase2_steps")
        if self.self_calibration.enabled and self.data.glue_task.is_regression:
            raise ValueError("self_calibration needs classes; stsb has scores")
        if self.train == "finetune":
            self.data.check_parts(self.eval.part, self.transductive.part or self.eval.part)
        if set(self.select.tricks) - {"sift", "self_calibration", "transductive"}:
            raise ValueError("select.tricks: sift, self_calibration and transductive are known")
