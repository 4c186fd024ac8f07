"""Options of data and encoder, and of what comes after the pre-training."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import DataConfig
from common.families.retrieval.config import DenseModel, RetrievalEval
from common.families.retrieval.finetuning_options import FinetuneConfig
from common.ranges import Count, Positive, Probability, Whole, at_least

SIMULATED = "permuted"  # a language with the sentences of another, in pieces of its own


@dataclass
class CCPData(DataConfig):
    """Documents of several languages, and pairs of neighbouring sentences."""

    # bundled: books-en, and other chapters of it in a simulated language; files: `languages`
    source: Literal["synthetic", "bundled", "files"] = "bundled"
    languages: dict[str, str] = field(default_factory=dict)  # files: language -> .jsonl below root
    window: Count = 5  # w, sentences to either side of the centre
    sampling_exponent: Probability = 0.3  # of the size of a language
    max_length: Annotated[int, at_least(4)] = 256  # tokens of a sentence in training
    block: Annotated[int, at_least(2)] = 32  # bundled: consecutive sentences of a document
    # files: last documents of every language, which only the validation reads
    heldout_documents: Whole = 0

    def __post_init__(self) -> None:
        if (self.source == "files") != bool(self.languages):
            raise ValueError("data.languages and data.source=files belong together")

    @property
    def num_languages(self) -> int:
        """Those of the files, or English and the simulated one."""
        return len(self.languages) or 2


@dataclass
class CCPModel(DenseModel):
    """The encoder; with a simulated language it has pieces for both."""

    pooling: Literal["avg", "cls_before_pooler", "last_token"] = "cls_before_pooler"
    length_groups: Count = 1  # passes over a batch by length, see SentenceEncoder
    grad_checkpointing: bool = False  # layers are computed again in the backward pass: less memory
    architecture: str | None = None  # what `make check` builds for a folder that is not here yet
    normalize: bool = False  # unit vectors in evaluation, calibration, export and search


@dataclass
class CCPFinetune(FinetuneConfig):
    """DPR's fine-tuning: dot products, one hard negative a question."""

    temperature: Positive = 1.0
    negative_hard_ratio: Probability = 1.0
    normalize_text: bool = False
    share_towers: bool = False  # one encoder for questions and passages
    dev_file: str | None = None  # questions whose loss selects the checkpoint
    dev_batch_size: Count = 32
    dev_every_n_steps: Count = 1000

    def __post_init__(self) -> None:
        if self.dev_file is not None and 0 < self.steps < self.dev_every_n_steps:
            raise ValueError(
                f"finetune.dev_every_n_steps={self.dev_every_n_steps} is more than the "
                f"{self.steps} steps: dev_file would select nothing"
            )


@dataclass
class CCPEval(RetrievalEval):
    """Neighbours and bitext beside the sets of the family."""

    part: Literal["dev", "test"] = "test"  # bundled: which chapters
    neighbour_queries: Whole = 0  # sentences that look for a neighbour among all held-out ones
    neighbour_window: Count = 2  # how far away a neighbour may be
    # pair of languages -> <folder>/<pair>, see common.evaluation.features.bitext.read_bitext
    bitext: dict[str, str] = field(default_factory=dict)
    pseudo_bitext: Whole = 0  # held-out sentences and their copies in the simulated language
    monolingual: dict[str, str] = field(default_factory=dict)  # .jsonl; others from data.languages
    calibration_texts: Annotated[int, at_least(2)] = 10000  # training sentences of a language
    rotation_steps: Whole = 0  # of the adversarial rotation; 0: none
    # XOR-Retrieve: folders with corpus.jsonl, "@ar" takes questions.ar.jsonl (question, answers)
    xor: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for pair in self.bitext:
            if len(pair.split("-")) != 2 or not all(pair.split("-")):
                raise ValueError(f"eval.bitext: '{pair}' is no pair of languages such as de-en")


@dataclass
class SplitConfig:
    """`make run TASK=split`: text of one language -> documents of sentences."""

    input: str | None = None  # file or folder of .txt files
    output: str | None = None  # .jsonl; None: the task's folder
    # lines: one sentence a line, a blank line between documents; text: one document a line
    layout: Literal["lines", "text"] = "lines"
    block: Annotated[int, at_least(2)] = 32  # sentences of a document, at most


@dataclass
class SetsConfig:
    """`make run TASK=sets`: official files of Mr.

    TyDi or XOR-Retrieve -> those of the evaluation.
    """

    kind: Literal["mrtydi", "xor"] = "mrtydi"
    input: str | None = None  # folder with the files, of one language (mrtydi)
    output: str | None = None  # folder; None: below the task's folder
    # of mrtydi: test, the set of the evaluation, or train and dev, questions for the fine-tuning;
    # of
    # xor: dev or dev_retrieve
    part: str = "test"


@dataclass
class CalibrateConfig:
    """`make run TASK=calibrate`: shift and scale of some languages, for use with an export."""

    input: dict[str, str] = field(default_factory=dict)  # language -> text file, one text a line
    output: str | None = None  # .safetensors; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`
