"""What can be set in a PROP or B-PROP experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.ranges import Count, NonNegative, Positive, Probability, Whole, at_least, between
from projects.b_prop.task_options import PrepareConfig, RankConfig, RankerTuning, RerankEval

Distribution = Literal["unigram", "attention", "entropy", "subtract"]


@dataclass
class BPropData(DataConfig):
    """Documents of the pre-training, and the pairs of word sets that are drawn for them."""

    batch_size: Count = 80  # (word set, document) inputs per device: two a pair, so even
    # bundled: texts of CISI and NPL without their titles; files: a folder that TASK=prepare wrote
    source: Literal["synthetic", "bundled", "files"] = "bundled"
    documents: str | None = None  # files: that folder
    max_documents: Count | None = None  # bundled: of each set, by hash of their ids; None: all
    max_document: Annotated[int, at_least(8)] = 512  # pieces that attention and training see
    pairs: Count = 5  # of word sets, for a document in an epoch of the data
    min_words: Count = 10  # documents with fewer candidate words are left out
    short_pieces: Whole = 0  # shorter documents are left out with the probability below
    short_skip_prob: Probability = 0.8

    def __post_init__(self) -> None:
        if self.batch_size % 2:
            raise ValueError(
                f"data.batch_size={self.batch_size} is odd: it counts inputs, two of each pair"
            )
        if (self.source == "files") != (self.documents is not None):
            raise ValueError("data.source=files and data.documents belong together")


@dataclass
class ModelConfig:
    """The cross-encoder."""

    pretrained: str = "bundled:text-encoder"  # see common.encoders.resolve_pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    head: Literal["new", "keep"] = "new"  # keep: continue from a pre-trained ranker with its head
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    max_length: Annotated[int, at_least(8)] = 512  # pieces of set (or query) and document
    max_first: Count = 64  # pieces of a query, which is cut there; word sets are never cut


@dataclass
class WordsConfig:
    """How representative words are drawn. All arms differ in this section alone."""

    # unigram: PROP; attention: of [CLS], without contrast; entropy, subtract: B-PROP
    distribution: Distribution = "entropy"
    labels: Literal["score", "random"] = "score"  # random: a control, which set is better is drawn
    poisson_mean: Positive = 3.0  # lambda of a set's length
    temperature: Positive | None = None  # of the softmax; None: 1 (entropy), 0.1 (subtract)
    encoder: str | None = None  # whose attention; None: of the encoder that is going to be trained
    layer: Annotated[int, between(-1000, 999)] = -1  # from 0, or from the end
    heads: Literal["mean", "max"] = "mean"
    saturation: Literal["ratio", "sqrt", "logistic", "none"] = "ratio"
    saturation_k: Positive = 0.01  # ratio: a / (a + k)
    parity_extraction: bool = False  # as released: first pieces alone, [CLS] and [SEP] are words
    stemming: bool = False  # Porter; drawn stems become words again
    stop_words: str = "english"  # unigram: english (179 words), none, or a file
    background: Literal["df", "tf"] = "df"  # unigram: what P(w|C) is made of
    min_count: Count = 10  # unigram: rarer words have no P(w|C)
    vocabulary: Count = 500  # unigram: K, candidates of a document
    extra_words: Whole = 100  # unigram: drawn from the collection if the document has K words
    keep_threshold: Positive = 1.0e-4  # unigram: t of the sub-sampling of frequent words
    mu: Positive | None = None  # unigram: of the smoothing; None: average length of a document

    @property
    def softmax_temperature(self) -> float:
        """T."""
        default = 0.1 if self.distribution == "subtract" else 1.0
        return self.temperature or default


@dataclass
class MethodConfig:
    """The objective: representative words and masked words, each with weight 1."""

    pretrain: bool = True  # False: the stage "finetune" alone
    rop: bool = True
    mlm: bool = True
    score_norm: Literal["softmax", "raw"] = "softmax"  # softmax as released, raw as in the text
    margin: NonNegative = 1.0
    mask_prob: Probability = 0.15  # of the document's pieces
    max_predictions: Count = 60  # masked pieces of an input

    def __post_init__(self) -> None:
        if self.pretrain and not (self.rop or self.mlm):
            raise ValueError("method.rop and method.mlm are both off: nothing would be trained")


@dataclass
class FinetuneConfig(RankerTuning):
    """The stage "finetune" on one large set; small sets are cross-validated, see `eval.tune`."""

    set: str | None = None  # BEIR folder, "msmarco@train"; "synthetic"
    candidates: str | None = None  # run file in TREC's layout; None: BM25
    depth: Count = 100  # candidates that negatives are drawn from
    val_queries: Whole = 0  # left out of the training, for the choice of a checkpoint

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds != RankerTuning.folds:
            raise ValueError(
                "finetune.folds: the stage trains once, without folds; see eval.tune.folds"
            )
        if self.steps and self.set is None:
            raise ValueError("finetune.steps needs finetune.set, such as msmarco@train")


@dataclass
class Config(ExperimentConfig):
    """PROP or B-PROP experiment."""

    data: BPropData = field(default_factory=BPropData)
    model: ModelConfig = field(default_factory=ModelConfig)
    words: WordsConfig = field(default_factory=WordsConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    eval: RerankEval = field(default_factory=RerankEval)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.method.pretrain and not self.finetune.steps:
            raise ValueError("method.pretrain=false needs finetune.steps: nothing would be trained")
        if self.model.max_first + 4 > self.model.max_length:
            raise ValueError("model.max_first leaves no room for a document in model.max_length")
