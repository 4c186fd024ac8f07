"""What can be set in a COCONUT experiment."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.data.speech.options import SpokenData
from common.ranges import Count, NonNegative, Positive, Rate, Whole
from projects.coconut.evaluation_options import SpeechEval
from projects.coconut.incremental_options import IncrementalClasses, Rehearsal
from projects.coconut.speech.options import SpeechModel


@dataclass
class CoconutData(SpokenData, IncrementalClasses):
    """Utterances, the tokens of what is decoded and how classes arrive."""

    tokens: Literal["word", "bpe"] = "word"
    vocab_size: Count = 1000  # most ids; also used where the data are not on disk
    slots: bool = False  # entities between intent and transcript (SLURP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slots and self.source != "slurp":
            raise ValueError("data.slots=true needs data.source=slurp")


@dataclass
class MethodConfig(Rehearsal):
    """Rehearsal, contrastive terms and distillation."""

    mm_weight: NonNegative = 0.1  # lambda_MM; 0 switches it off
    mm_rows: Literal["current", "all"] = "current"  # S
    mm_first_only: bool = False  # in the first task only
    nspt_weight: NonNegative = 1.0  # lambda_NSPT; 0 switches it off
    nspt_ratio: bool = True  # times past / all classes seen so far
    nspt_modalities: list[str] = field(default_factory=lambda: ["audio", "text"])
    design: Literal["nspt", "ntpt", "nsps"] = "nspt"  # whose vectors are negatives and positives
    anchors: Literal["rehearsal", "all"] = "rehearsal"
    negatives: Literal["all", "current"] = "all"  # rows in the denominator
    denominator: Literal["with_positive", "literal", "literal_self"] = "with_positive"
    temperature: Positive = 0.1  # tau of both contrastive terms
    text: Literal["transcript", "target"] = "transcript"  # what the text embedding reads
    # audio: A-KD, sequence: S-KD, token: T-KD on memory, token_all: T-KD on everything
    distillation: Literal["none", "audio", "sequence", "token", "token_all"] = "none"
    kd_temperature: Positive = 1.0
    kd_beam: Count = 20  # S-KD: beams of the teacher's hypothesis
    label_smoothing: Rate = 0.0
    count_pad: bool = False  # padding counts in the cross-entropy, as in the authors' code
    epochs: list[Positive] = field(default_factory=list)  # of each task; empty: trainer.max_epochs
    select: Literal["last", "best"] = "last"  # best: by validation accuracy of all seen classes
    select_from_epoch: Whole = 5  # best: not before, in tasks >= 2

    def __post_init__(self) -> None:
        if not self.nspt_modalities or set(self.nspt_modalities) - {"audio", "text"}:
            raise ValueError("method.nspt_modalities: audio, text or both")

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
class Config(ExperimentConfig):
    """COCONUT experiment."""

    data: CoconutData = field(default_factory=CoconutData)
    model: SpeechModel = field(default_factory=SpeechModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: SpeechEval = field(default_factory=SpeechEval)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainer.precision == "bf16-true":
            raise ValueError("trainer.precision=bf16-true: spectra need float32; take bf16-mixed")
        tasks, epochs = self.data.num_tasks, self.method.epochs
        if epochs and self.method.setting == "incremental" and len(epochs) != tasks:
            raise ValueError(f"method.epochs needs {tasks} entries (data.num_tasks) or none")
        if self.method.select == "best" and self.trainer.val_every_n_steps is None:
            raise ValueError("method.select=best needs trainer.val_every_n_steps")

    @property
    def num_tasks(self) -> int:
        """Tasks that are trained: one offline."""
        return 1 if self.method.setting == "offline" else self.data.num_tasks
