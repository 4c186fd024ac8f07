"""What can be set; values stand in configs/peft_augmentation. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import DecoderConfig, ServerConfig
from common.ranges import Cosine, Count, NonNegative, Positive, Probability, Share, not_empty
from projects.peft_augmentation.classification.config import (
    ClassifierEval,
    ClassifierModel,
    LabelledData,
    TuningConfig,
)


@dataclass
class AugmentConfig:
    """Altered copies of the training examples: one switch for all tunings."""

    kind: Literal["none", "eda", "back_translation", "mixup"] = "none"
    copies: Count = 4  # eda: of each example, one of which is drawn each time
    alpha: Share = 0.1  # eda: share of the words
    # eda: folder of WordNet's database files, below data.root; None: the bundled part
    wordnet: str | None = None
    cache: str | None = None  # back_translation: of TASK=copies with this seed and n
    repeat: bool = False  # none: every example stands twice in a batch, as many rows as with copies
    concentration: Positive = 0.2  # mixup: a of Beta(a, a)
    layer: Literal["input", "middle", "sentence"] = "sentence"  # mixup: what is mixed
    each: bool = False  # mixup: a share for every pair; else one for the batch

    def __post_init__(self) -> None:
        if (self.kind == "back_translation") != (self.cache is not None):
            raise ValueError("augment.cache and augment.kind=back_translation belong together")
        if self.repeat and self.kind != "none":
            raise ValueError("augment.repeat is for augment.kind=none")

    @property
    def doubles(self) -> bool:
        """Whether a batch holds a second row of every example."""
        return self.repeat or self.kind in ("eda", "back_translation")


@dataclass
class ContrastConfig:
    """The contrastive term on sentence vectors."""

    weight: NonNegative = 0.0  # lambda_cl; 0: no such term
    form: Literal["sup_con", "margin", "nt_xent"] = "sup_con"
    temperature: Positive = 0.1  # tau of sup_con and nt_xent
    margin: Cosine = 0.3  # m of the margin form


@dataclass
class CopiesConfig:
    """`make run TASK=copies`: the cache of back translation, or of what stands in for it."""

    output: str | None = None  # the cache; None: in the task's folder
    method: Literal["back_translation", "paraphrase", "word_dropout"] = "back_translation"
    forward: str = "Helsinki-NLP/opus-mt-en-de"  # encoder-decoder to the pivot language
    backward: str = "Helsinki-NLP/opus-mt-de-en"  # and back
    num_beams: Count = 5  # both ways; 1 with sampling on the way back
    sample: bool = False  # back translation samples at `decoder.temperature` instead
    model: str = "bundled:causal-lm"  # paraphrase: a local model, unless there is an endpoint
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig("ancestral", temperature=0.9)
    )
    generator: ServerConfig = field(default_factory=ServerConfig)
    max_new_tokens: Count = 128
    batch_size: Count = 16
    kept_words: Probability = 0.5  # paraphrase: least share of the content words that must stay
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass
class AnalyseConfig:
    """`make run TASK=analyse`: tunings side by side on original and altered test copies."""

    runs: list[str] = field(default_factory=list)  # folders of runs or exports; []: see the task
    figure: bool = True  # t-SNE of the vectors
    points: Count = 500  # of the figure, at most


@dataclass
class PredictConfig:
    """`make run TASK=predict`: classes of your own texts."""

    run: str = "latest"  # run of this config, or a folder written by `make export`
    input: str | None = None  # one text per line; of a pair, separated by a tab


@dataclass
class TableConfig:
    """`make run TASK=table`: tuning x augmentation x contrast, from finished runs."""

    runs: list[str] = field(default_factory=list)  # folders of runs; []: all of the project
    # of the test part, one table each: accuracy, on heavily altered data, and separation of classes
    metrics: Annotated[list[str], not_empty] = field(
        default_factory=lambda: [
            "accuracy",
            "accuracy_altered_0.5",
            "silhouette",
            "silhouette_altered_0.5",
        ]
    )


@dataclass
class ExportConfig:
    """`make export`."""

    merge: bool = False  # LoRA is added to the encoder's weights


@dataclass
class Config(ExperimentConfig):
    """Experiment on data augmentation for parameter-efficient tuning."""

    data: LabelledData = field(default_factory=LabelledData)
    model: ClassifierModel = field(default_factory=ClassifierModel)
    tuning: TuningConfig = field(default_factory=lambda: TuningConfig(kind="prefix"))
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    eval: ClassifierEval = field(default_factory=ClassifierEval)
    export: ExportConfig = field(default_factory=ExportConfig)
    copies: CopiesConfig = field(default_factory=CopiesConfig)
    analyse: AnalyseConfig = field(default_factory=AnalyseConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    table: TableConfig = field(default_factory=TableConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrast.weight and self.contrast.form != "sup_con" and not self.augment.doubles:
            raise ValueError(
                f"contrast.form={self.contrast.form} pairs examples with copies: set augment.kind"
                " to eda or back_translation"
            )
        if self.trainer.val_every_n_steps is not None and not self.data.dev_examples:
            raise ValueError("trainer.val_every_n_steps needs data.dev_examples to validate on")
