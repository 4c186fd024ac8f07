"""Options of what comes after the pre-training: fine-tuning, evaluation and tasks."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.families.retrieval.config import RetrievalEval
from common.families.retrieval.finetuning_options import FinetuneConfig
from common.ranges import Count, Positive, Probability, Whole, at_least

SIMULATED = "permuted"  # a language with the sentences of another, in pieces of its own


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


@dataclass
class SplitConfig:
    """`make run TASK=split`: text of one language -> documents of sentences."""

    input: str | None = None  # file or folder of .txt files
    output: str | None = None  # .jsonl; None: the task's folder
    # lines: one sentence a line, a blank line between documents; text: one document a line
    layout: Literal["lines", "text"] = "lines"
    block: Annotated[int, at_least(2)] = 32  # sentences of a document, at most


@dataclass
class CalibrateConfig:
    """`make run TASK=calibrate`: shift and scale of some languages, for use with an export."""

    input: dict[str, str] = field(default_factory=dict)  # language -> text file, one text a line
    output: str | None = None  # .safetensors; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`
