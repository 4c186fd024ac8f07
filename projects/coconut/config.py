"""What can be set in a COCONUT experiment."""

from dataclasses import dataclass, field
from typing import Any, Literal

from common.config import DataConfig, ExperimentConfig

Design = Literal["nspt", "ntpt", "nsps"]


@dataclass
class CoconutData(DataConfig):
    """Utterances and how their classes arrive."""

    # digits: the bundled spoken digits; fsc, slurp: official layouts; synthetic: tone words
    source: Literal["synthetic", "digits", "fsc", "slurp"] = "digits"
    num_tasks: int = 5  # T
    order: list[int] | None = None  # classes in order of arrival; None: see order_by_seed
    order_by_seed: bool = False  # draw the order by the seed; else the numbering of the classes
    tokens: Literal["word", "bpe"] = "word"
    vocab_size: int = 1000  # most ids; also used where the data are not on disk
    slots: bool = False  # entities between intent and transcript (SLURP)
    synthetic_recordings: bool = True  # SLURP: train on the synthetic recordings too
    max_samples: int | None = None  # longer recordings (at 16 kHz) are dropped
    max_characters: int | None = None  # longer transcripts are dropped
    train_per_class: int = 16  # synthetic source

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_tasks < 1:
            raise ValueError("data.num_tasks must be >= 1")
        if self.slots and self.source != "slurp":
            raise ValueError("data.slots=true needs data.source=slurp")


@dataclass
class ModelConfig:
    """Encoder, decoder and projections."""

    encoder: Literal["conv", "wav2vec2"] = "conv"
    pretrained: str = "random"  # wav2vec2: see common.encoders.resolve_pretrained
    wav2vec2: dict[str, Any] = field(default_factory=dict)  # architecture with pretrained=random
    num_mels: int = 40  # conv
    dim: int = 96  # conv; a wav2vec 2.0 model brings its own
    num_convs: int = 2
    num_layers: int = 2
    num_heads: int = 4
    augment: bool = True  # conv: SpecAugment in training
    freq_width: int = 8  # of a frequency mask, in bands
    time_width: int = 20  # of a time mask, in frames
    decoder_layers: int = 2
    decoder_heads: int = 4
    decoder_hidden: int | None = None  # None: four times the dimension
    dropout: float = 0.1  # conv encoder and decoder
    head_hidden: int = 512  # of both projections
    embed_dim: int = 128  # of the contrasted embeddings


@dataclass
class MethodConfig:
    """Rehearsal, contrastive terms and distillation."""

    setting: Literal["incremental", "offline"] = "incremental"  # offline: all classes at once
    memory_size: int = 20  # M; every class has floor(M / classes) places; 0: fine-tuning
    selection: Literal["random", "closest", "herding"] = "herding"
    mm_weight: float = 0.1  # lambda_MM; 0 switches it off
    mm_rows: Literal["current", "all"] = "current"  # S
    mm_first_only: bool = False  # in the first task only
    nspt_weight: float = 1.0  # lambda_NSPT; 0 switches it off
    nspt_ratio: bool = True  # times past / all classes seen so far
    nspt_modalities: list[str] = field(default_factory=lambda: ["audio", "text"])
    design: Design = "nspt"  # whose vectors are negatives and positives
    anchors: Literal["rehearsal", "all"] = "rehearsal"
    negatives: Literal["all", "current"] = "all"  # rows in the denominator
    denominator: Literal["with_positive", "literal", "literal_self"] = "with_positive"
    temperature: float = 0.1  # tau of both contrastive terms
    text: Literal["transcript", "target"] = "transcript"  # what the text embedding reads
    # audio: A-KD, sequence: S-KD, token: T-KD on memory, token_all: T-KD on everything
    distillation: Literal["none", "audio", "sequence", "token", "token_all"] = "none"
    kd_temperature: float = 1.0
    kd_beam: int = 20  # S-KD: beams of the teacher's hypothesis
    label_smoothing: float = 0.0
    count_pad: bool = False  # padding counts in the cross-entropy, as in the authors' code
    epochs: list[float] = field(default_factory=list)  # of each task; empty: trainer.max_epochs
    select: Literal["last", "best"] = "last"  # best: by validation accuracy of all seen classes
    select_from_epoch: int = 5  # best: not before, in tasks >= 2

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.kd_temperature <= 0:
            raise ValueError("method.temperature and method.kd_temperature must be > 0")
        if min(self.memory_size, self.mm_weight, self.nspt_weight) < 0:
            raise ValueError("method.memory_size, mm_weight and nspt_weight must be >= 0")
        unknown = set(self.nspt_modalities) - {"audio", "text"}
        if unknown or not self.nspt_modalities:
            raise ValueError("method.nspt_modalities: audio, text or both")

    @property
    def rehearses(self) -> bool:
        """Whether old samples are kept."""
        return self.setting == "incremental" and self.memory_size > 0

    @property
    def uses_nspt(self) -> bool:
        """Whether the term exists in tasks >= 2."""
        return self.rehearses and self.nspt_weight > 0

    @property
    def contrasts(self) -> bool:
        """Whether projections are needed."""
        return self.mm_weight > 0 or self.uses_nspt

    @property
    def uses_teacher(self) -> bool:
        """Whether tasks >= 2 keep a copy of the previous network."""
        everything = self.setting == "incremental" and self.distillation == "token_all"
        return self.uses_nspt or everything or (self.rehearses and self.distillation != "none")


@dataclass
class EvalConfig:
    """Decoding and evaluation."""

    split: Literal["test", "dev"] = "test"  # dev: to tune on
    beam_size: int = 5
    val_beam_size: int = 5
    val_share: float = 0.1  # of the validation utterances of the seen classes
    length_power: float = 0.6  # scores are divided by ((5 + length) / 6)^power
    max_length: int = 40  # generated tokens
    batch_size: int = 64

    def __post_init__(self) -> None:
        if min(self.beam_size, self.val_beam_size, self.max_length, self.batch_size) < 1:
            raise ValueError("eval.beam_size, val_beam_size, max_length, batch_size must be >= 1")
        if not 0 < self.val_share <= 1:
            raise ValueError("eval.val_share must lie in (0, 1]")


@dataclass
class Config(ExperimentConfig):
    """COCONUT experiment."""

    data: CoconutData = field(default_factory=CoconutData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        tasks, epochs = self.data.num_tasks, self.method.epochs
        if epochs and self.method.setting == "incremental" and len(epochs) != tasks:
            raise ValueError(f"method.epochs needs {tasks} entries (data.num_tasks) or none")
        if self.method.select == "best" and self.trainer.val_every_n_steps is None:
            raise ValueError("method.select=best needs trainer.val_every_n_steps")

    @property
    def num_tasks(self) -> int:
        """Tasks that are trained: one offline."""
        return 1 if self.method.setting == "offline" else self.data.num_tasks
