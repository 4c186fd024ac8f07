"""What can be set in a CCP experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import DataConfig, ExperimentConfig
from common.families.retrieval.config import DenseModel, RetrievalEval, RetrievalSearch
from common.families.retrieval.finetuning_options import FinetuneConfig
from common.ranges import Count, Inner, NonNegative, Positive, Probability, Share, Whole, at_least

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
    """Neighbours and bitext alongside the sets of the family."""

    part: Literal["dev", "test"] = "test"  # bundled: which chapters
    neighbour_queries: Whole = 0  # sentences that look for a neighbour among all held-out ones
    neighbour_window: Count = 2  # how far away a neighbour may be
    # pair of languages -> <folder>/<pair>, see projects.ccp.bitext.read_bitext
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
                raise ValueError(f"eval.bitext: '{pair}' is not a pair of languages such as de-en")


@dataclass
class SplitConfig:
    """`make run TASK=split`: text of one language -> documents of sentences."""

    input: str | None = None  # file or folder of .txt files
    output: str | None = None  # .jsonl; None: the task's folder
    # lines: one sentence per line, a blank line between documents; text: one document per line
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

    input: dict[str, str] = field(default_factory=dict)  # language -> text file, one text per line
    output: str | None = None  # .safetensors; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`


@dataclass
class MethodConfig:
    """The objective of the pre-training."""

    pretrain: bool = True  # False: fine-tuning alone, from the encoder as it is
    temperature: Positive = 0.1  # tau
    norm: Literal["asymmetric", "plain", "none"] = "asymmetric"  # of the head; ablation: the others
    last_norm: bool = True  # a second norm after the last linear map
    norm_eps: Positive = 1.0e-12
    norm_momentum: Share = 0.1  # how far the running statistics move in a step
    bank_size: Count = 4096  # rows of all languages together; a step writes two for each pair
    language_bank: bool = True  # an equal part for each; False: one for all languages (ablation)
    # own: contexts against contexts, as in the equations
    bank_sides: Literal["both", "own"] = "both"
    bank_initial: Literal["masked", "random"] = "masked"  # random: as released with MSM
    in_batch_negatives: bool = True  # False: the bank alone
    cts_weight: NonNegative = 1.0  # of the two directions
    mlm_weight: NonNegative = 1.0  # 0: no masked language model
    mlm_probability: Inner = 0.15
    mlm_every: Count = 4  # one of how many centres is masked as well
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class Config(ExperimentConfig):
    """CCP experiment."""

    data: CCPData = field(default_factory=CCPData)
    model: CCPModel = field(default_factory=CCPModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    finetune: CCPFinetune = field(default_factory=CCPFinetune)
    eval: CCPEval = field(default_factory=CCPEval)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)
    split: SplitConfig = field(default_factory=SplitConfig)
    sets: SetsConfig = field(default_factory=SetsConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)

    @property
    def simulated(self) -> bool:
        """Whether one of the languages is `SIMULATED`."""
        return self.data.source != "files"

    def __post_init__(self) -> None:
        super().__post_init__()
        method = self.method
        if not method.pretrain and not self.finetune.steps:
            raise ValueError("method.pretrain=false needs finetune.steps: nothing would be trained")
        if method.pretrain and method.mlm_weight and self.data.batch_size < method.mlm_every:
            raise ValueError("data.batch_size < method.mlm_every leaves ranks without masked rows")
        if method.pretrain and self.simulated and self.model.pretrained != "random":
            raise ValueError(
                "the simulated language has pieces of its own: it needs model.pretrained=random, "
                "or real languages in data.languages with data.source=files"
            )
        if self.eval.pseudo_bitext and not self.simulated:
            raise ValueError("eval.pseudo_bitext is for the simulated language: use eval.bitext")
        languages = {"en", SIMULATED} if self.simulated else {*self.data.languages}
        needed = {language for pair in self.eval.bitext for language in pair.split("-")}
        without = sorted(needed - languages - {*self.eval.monolingual})
        if without:
            raise ValueError(
                f"eval.bitext: '{without[0]}' has no text to calibrate with: give a .jsonl file in "
                f"eval.monolingual.{without[0]}"
            )
        questions = self.finetune.file or (self.eval.held_out_queries and self.eval.beir)
        if self.finetune.steps and not questions:
            raise ValueError(
                "fine-tuning needs questions: finetune.file, or eval.held_out_queries of eval.beir"
            )
