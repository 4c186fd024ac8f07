"""What can be set in a WikiDes experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig, OptimConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.evaluation.own_data import OWN, Judge, OwnData
from common.families.retrieval.config import DenseModel
from common.ranges import Count, Counts, NonNegative, Probability, Rate, Whole, at_least

Tokens = Annotated[int, at_least(4)]  # special ones included


@dataclass
class GeneratorModel:
    """Phase I: an encoder-decoder of transformers."""

    pretrained: str = "t5-small"  # folder, hub id, bundled:<name> or random
    config: dict[str, Any] | None = None  # with random: model_type and its fields
    tokenizer: str | None = None  # with random: of other weights; None: the built-in one
    dropout: Rate | None = None  # every dropout probability; None: the model's own
    max_source: Tokens = 256
    max_target: Tokens = 32  # in training
    max_new_tokens: Count = 256  # in decoding; no more than the decoder has positions
    beams: Count = 1  # of the evaluation


@dataclass
class CollectConfig:
    """`make run TASK=collect`: records of Wikidata items to the files of phase I, both splits."""

    # JSON lines: wikidata_id, label, description, instances [[id, name], ...], subclasses,
    # first_paragraph, perhaps first_sentence
    input: str | None = None
    output: str | None = None  # folder; None: the task's
    kind: Literal["para", "sen", "para_wd", "sen_wd"] = "para"  # source text; wd: instances added
    max_words: Count = 256  # of the source text
    min_sentence_words: Whole = 10  # items with a shorter first sentence are dropped
    # of the random split, as the release's README has it (its script drops them in both splits)
    keep_without_instances: bool = True
    train_share: Probability = 0.8  # occurrences that the topics of the training part make up


@dataclass
class CandidatesConfig:
    """`make run TASK=candidates`: records of phase I to those of phase II."""

    input: str | None = None  # {"source", "target", "baseline_candidates"?} a line
    output: str | None = None  # .jsonl; None: in the task's folder
    generator: str | None = None  # exported folder or hub id of an encoder-decoder
    # beams of each search; what the first one writes is phase I's own text
    widths: Counts = field(default_factory=lambda: list(range(1, 26)))
    max_new_tokens: Count = 256
    max_source: Count = 256  # tokens
    baselines: bool = True  # the names of the instances are candidates too
    batch_size: Count = 16
    device: str = "auto"


@dataclass
class RankConfig:
    """`make run TASK=rank`: candidates in the order of a trained ranker."""

    input: str | None = None  # {"source", "candidate": [...]} a line; None: some test rows
    output: str | None = None  # .jsonl; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`


@dataclass
class DescribeConfig:
    """`make run TASK=describe`: paragraphs to descriptions, both phases in one."""

    input: str | None = None  # text file, one paragraph per line
    output: str | None = None  # .jsonl; None: in the task's folder
    generator: str | None = None  # exported folder or hub id of an encoder-decoder
    widths: Counts = field(default_factory=lambda: [1, 2, 5, 10])  # beams of each search
    max_new_tokens: Count = 64
    max_source: Count = 256  # tokens, as of the candidates
    run: str = "latest"  # of the ranker


@dataclass
class FormConfig:
    """`make run TASK=form`: a blind form for raters, gold against phase I against phase II."""

    # {"source", "gold", "phase1", "phase2"} a line; None: test rows that have phase1, ranked
    input: str | None = None
    items: Count = 100  # the first so many rows


@dataclass
class ChoicesConfig:
    """`make run TASK=choices`: what the raters chose."""

    forms: list[str] = field(default_factory=list)  # filled in, one a rater
    key: str | None = None  # written with the form


@dataclass
class SentimentConfig:
    """`make run TASK=sentiment`: polarity of paragraphs, gold and generated descriptions."""

    # {"source", "gold", "phase1"?, "phase2"?} a line; None: the test rows, ranked
    input: str | None = None
    model: str | None = None  # folder or hub id of a sequence classifier
    labelled: str | None = None  # instead: {"text", "label"} a line to train a bag of words on
    batch_size: Count = 32


Part = Literal["train", "dev", "test"]


@dataclass
class WikiDesData(DataConfig):
    """Paragraphs with their description and, in phase II, candidates for it."""

    # bundled: data/wikides-ranking (phase II) or data/wikides (phase I); released: the layout of
    # the release below `folder`; files: JSON lines; synthetic: made up
    source: Literal["synthetic", "bundled", "released", "files"] = "bundled"
    folder: str = "wikides"  # released: below data.root, holds phase1 and phase2
    split: Literal["diff", "random"] = "diff"  # released: by topic, or independent of it
    # files, below data.root: {"source", "target", "candidate": [...]} a line, and perhaps
    # "phase1", what one greedy search writes, and "baseline_candidates", names of the instances
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    limit: Count | None = None  # training rows, drawn by the seed; None: all
    eval_limit: Count | None = None  # the first rows of dev and test; None: all
    num_candidates: Count = 5  # of a row, in training: its first ones
    eval_candidates: Count | None = None  # in validation and test: the first ones; None: all
    min_candidates: Count = 1  # rows with fewer different ones are left out, in every part
    drop_gold: bool = False  # no training rows whose description is among their candidates
    # what is better in training: candidates nearer to the description (mean of ROUGE-1, -2, -L),
    # earlier ones (beam order), or those nearer to the paragraph (ROUGE-1); not for loss=official
    order: Literal["gold_rouge", "beam", "source_rouge"] = "gold_rouge"

    def __post_init__(self) -> None:
        named = [name is not None for name in (self.train, self.dev, self.test)]
        if (self.source == "files") != all(named) or any(named) != all(named):
            raise ValueError("data.source=files needs data.train, data.dev and data.test, alone")


@dataclass
class RankerModel(DenseModel):
    """Phase II: one encoder for paragraph, candidates and description."""

    pooling: Literal["avg", "cls_before_pooler", "last_token"] = "cls_before_pooler"
    max_length: Tokens = 256  # of any text
    head_dim: Count | None = None  # a linear map on top; None: none
    length_groups: Count = 1  # passes over a training batch, each of texts of similar length


@dataclass
class MethodConfig:
    """Phase II: scores and their loss."""

    # simcls: the description above the candidates, better candidates above worse; official: as
    # released, the description below, candidates in random order and repeated up to their number
    loss: Literal["simcls", "official"] = "simcls"
    margin: NonNegative = 0.01  # lambda, a step of rank
    gold_margin: NonNegative | None = 0.01  # lambda_g; None: as margin
    use_sim: bool = True  # cosine of paragraph and candidate
    use_rouge: bool = False  # ROUGE-1 of candidate and paragraph; with both their harmonic mean
    # the cosine in it: at least 0, (1 + cosine) / 2, or as released, with a pole at -ROUGE
    sim_range: Literal["clamp", "unit", "raw"] = "clamp"

    def __post_init__(self) -> None:
        if not (self.use_sim or self.use_rouge):
            raise ValueError("set method.use_sim, method.use_rouge or both")


@dataclass
class WikiDesOptim(OptimConfig):
    """As everywhere, but the learning rate may be 0: the released ranker was never trained."""

    lr: NonNegative = 2e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr == 0 and (self.warmup_start_lr or self.final_lr):
            raise ValueError("optim.lr=0 goes with optim.warmup_start_lr=0 and optim.final_lr=0")


@dataclass
class WikiDesEval(OwnData):
    """Descriptions against the gold ones and against the paragraphs."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.DESCRIPTIONS: Judge(
            {
                "data.source": "files",
                **dict.fromkeys(("data.train", "data.dev", "data.test"), OWN),
                "data.eval_limit": None,
                "data.eval_candidates": None,
                "data.min_candidates": 1,
                "eval.part": "test",
            },
            baselines=True,
        )
    }

    part: Literal["dev", "test"] = "test"
    batch_size: Count = 64
    monitor: Literal["source", "gold"] = "source"  # phase II: what the best checkpoint is chosen by
    untrained: bool = True  # phase II: rows ``untrained_*`` alongside
    grid: bool = True  # rows of the selectors that need no training
    full: bool = True  # BLEU and METEOR alongside ROUGE
    bert_score: str | None = None  # folder or hub id of an encoder: BERTScore; None: not computed
    bert_score_layer: Annotated[int, at_least(-1)] = -1  # 0: the embeddings; -1: the last layer
    whiten: bool = False  # vectors are whitened on the evaluated texts; tasks never do it


@dataclass
class Config(ExperimentConfig):
    """WikiDes experiment."""

    phase: Literal["describe", "rank"] = "rank"  # I: train a generator; II: train a ranker
    data: WikiDesData = field(default_factory=WikiDesData)
    model: RankerModel = field(default_factory=RankerModel)
    generator: GeneratorModel = field(default_factory=GeneratorModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    optim: WikiDesOptim = field(default_factory=WikiDesOptim)
    eval: WikiDesEval = field(default_factory=WikiDesEval)
    # tasks
    collect: CollectConfig = field(default_factory=CollectConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    form: FormConfig = field(default_factory=FormConfig)
    choices: ChoicesConfig = field(default_factory=ChoicesConfig)
    sentiment: SentimentConfig = field(default_factory=SentimentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method.loss == "official" and self.data.order != "gold_rouge":
            raise ValueError("method.loss=official draws the order; leave data.order=gold_rouge")
        if self.phase == "describe" and (self.eval.monitor == "gold" or self.eval.whiten):
            raise ValueError("eval.monitor=gold and eval.whiten=true are for phase=rank alone")
