"""What can be set in a VacancySBERT experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.families.retrieval.config import DenseModel, RetrievalEval, RetrievalSearch
from common.ranges import Count, Positive, Probability, Seed, at_least

Setting = Literal["titles", "with_skills"]
Tokens = Annotated[int, at_least(4)]  # special ones included


@dataclass
class VacancyData(DataConfig):
    """Adverts, and the benchmark of title normalisation."""

    # esco: bundled occupations, see the card; files: adverts as JSON lines; synthetic: made up
    source: Literal["synthetic", "esco", "files"] = "esco"
    train: str | None = None  # files: {"title", "skills", "id"?} a line, below data.root
    test: str | None = None  # files: {"title", "skills", "normalized_title", "id"?} a line
    dev: str | None = None  # files: as test, for validation and the choice of eval.beta
    candidates: str | None = None  # standard titles, one a line; None: those of the test rows
    limit: Count | None = None  # training adverts, drawn by the seed; None: all
    occupations: Count = 12  # synthetic
    min_skills: Count = 3  # adverts with fewer distinct skills are dropped and counted
    max_skills: Count = 20  # of an advert that are shown in one draw
    max_title_len: Tokens = 32  # in training
    max_skill_len: Tokens = 128  # in training; outside of it model.max_length holds for every text
    max_ads_per_title: Count | None = 500  # popular titles would dominate; None: no cap
    clean_titles: bool = False  # places, salaries, ids and emoji go, in training and after it

    def __post_init__(self) -> None:
        both = self.train is not None and self.test is not None
        if (self.source == "files") != both or (self.dev is not None and not both):
            raise ValueError("data.source=files needs data.train and data.test, and only it does")
        if self.max_skills < self.min_skills:
            raise ValueError("data.max_skills must not be below data.min_skills")


@dataclass
class ModelConfig(DenseModel):
    """One transformer for titles and skills, mean pooling."""

    asymmetric_head: bool = False  # a linear map for each kind of text on top (JobBERT-V2)
    head_dim: Count = 1024  # of those maps


@dataclass
class MethodConfig:
    """The objective."""

    # pairs: titles against skill sets; skills: titles against single skills of a table (JobBERT's
    # way, a baseline)
    objective: Literal["pairs", "skills"] = "pairs"
    temperature: Positive = 0.05  # tau, divides the cosines
    symmetric: bool = True  # pairs: both directions; False: title -> skills
    mask_duplicates: bool = True  # same title or same skills in the batch: no negatives
    skills_per_title: Count = 4  # skills: drawn for a title in a step
    skill_buckets: Count = 16384  # skills: rows of the table, which a skill's hash picks
    gather: bool = True  # in-batch negatives of all ranks
    chunk_size: Count | None = None  # gradient cache: texts per pass; None: no cache
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class ExtractConfig:
    """`make run TASK=extract`: skills of adverts from their descriptions."""

    # dictionary: entries of a list; lm: a language model's answer; ner: spans that a model marks;
    # clauses: pieces of the text; precomputed: the skills that the rows have, cleaned
    kind: Literal["dictionary", "lm", "ner", "clauses", "precomputed"] = "dictionary"
    inputs: list[str] = field(default_factory=list)  # training and test files, in one call
    output: str | None = None  # folder of the files <name>.jsonl; None: the task's
    dictionary: str | None = None  # one skill per line; None: ESCO's labels
    max_words: Count = 6  # all but dictionary: longer items are dropped
    ner_model: str | None = None  # ner: folder or hub id of a token-classification model
    model: str = "bundled:causal-lm"  # lm: folder or hub id of a causal or encoder-decoder model
    max_prompt_tokens: Annotated[int, at_least(64)] = 1000  # lm: instruction and description
    max_new_tokens: Count = 128  # lm
    batch_size: Count = 16  # lm, ner: descriptions per pass
    device: str = "auto"  # lm, ner
    seed: Seed = 0


@dataclass
class NormaliseConfig:
    """`make run TASK=normalise`: standard titles for adverts, from any list of candidates."""

    input: str | None = None  # {"title", "skills"?} a line; None: some test rows
    candidates: str | None = None  # one title per line; None: those of the benchmark
    output: str | None = None  # .jsonl; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`
    k: Count = 5


@dataclass
class ScoreConfig:
    """`make run TASK=score`: the benchmark for embeddings of any model."""

    # safetensors: titles (Q, D) and candidates (C, D) in the order of the files that TASK=benchmark
    # writes; skills (Q, D) if there are any
    embeddings: str | None = None


@dataclass
class VacancyEval(RetrievalEval):
    """Title normalisation: Recall@1, @5, @10 and MRR, titles alone and with skills."""

    part: Literal["dev", "test"] = "test"
    beta: Probability | None = 0.5  # share of the title alongside the skills; None: best on dev
    query: Literal["mean", "concatenated"] = "mean"  # concatenated: one text "title: skills"
    # further rows of the table: name -> pretrained string, folder of sentence-transformers, or file
    # of word vectors (.vec)
    references: dict[str, str] = field(default_factory=dict)


@dataclass
class Config(ExperimentConfig):
    """VacancySBERT experiment."""

    data: VacancyData = field(default_factory=VacancyData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: VacancyEval = field(default_factory=VacancyEval)
    # tasks; generator and task are the language model and the rows of `extract`
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)
    normalise: NormaliseConfig = field(default_factory=NormaliseConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.asymmetric_head and self.method.objective == "skills":
            raise ValueError(
                "model.asymmetric_head has no second text with method.objective=skills"
            )
        if self.model.asymmetric_head and self.model.pooling == "last_token":
            raise ValueError("model.asymmetric_head goes with pooling avg or cls_before_pooler")
        validates = self.trainer.val_every_n_steps is not None or self.eval.beta is None
        if self.data.source == "files" and self.data.dev is None and validates:
            raise ValueError("validation and eval.beta=null need data.dev")
