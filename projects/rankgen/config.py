"""What can be set in a RankGen experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig, Strategy
from common.families.retrieval.config import RetrievalEval, RetrievalSearch
from common.ranges import Count, Inner, Positive, Rate, Share, Whole, at_least

Part = Literal["train", "dev", "test"]
Half = Literal["ranker", "generator", "all"]


@dataclass
class RankgenData(DataConfig):
    """Triples of prefix, gold continuation and generated continuation."""

    # bundled: continuations of eight books; file: JSONL as `TASK=generate` writes it; synthetic
    source: Literal["synthetic", "bundled", "file"] = "bundled"
    file: str | None = None  # source=file: training triples, below data.root
    eval_file: str | None = None  # source=file: triples of other documents, below data.root
    batches: Literal["document", "mixed"] = "document"  # mixed: batches over all documents
    limit: Count | None = None  # training triples, drawn by the seed

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("data.file and data.source=file belong together")


@dataclass
class ModelConfig:
    """The encoder of both sides."""

    # see common.encoders.resolve_pretrained; released checkpoints bring their projection
    pretrained: str = "bundled:text-encoder"
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    # where the weights come without one; None: of T5 v1.1, and with pretrained=random the built-in
    # one
    tokenizer: str | None = None
    pooling: Literal["first", "mean"] = "first"  # mean: where the first state is not trained
    layers: Count | None = None  # first layers of the transformer that are kept; None: all
    prefix_length: Annotated[int, at_least(4)] = 512  # tokens, marker included
    suffix_length: Annotated[int, at_least(4)] = 128
    dropout: Rate | None = None  # every dropout probability; None: the model's own
    attention: Literal["auto", "eager", "sdpa"] = "auto"  # eager is faster for short texts on a CPU
    projection_std: Positive | None = None  # of the new projection; None: 1/sqrt(d)


@dataclass
class MethodConfig:
    """The objective."""

    # inbook: other golds of the batch; generative: generated continuations; both
    negatives: Literal["inbook", "generative", "both"] = "both"
    gather: bool = True  # golds and generations of all ranks
    chunk_size: Count | None = None  # gradient cache: texts per pass; None: no cache
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class WindowConfig:
    """Prefixes and continuations of plain books, for `TASK=windows` and `TASK=generate`."""

    books: str | None = None  # folder of .txt files below data.root; None: bundled novels
    part: Part = "train"  # of the bundled novels
    half: Half = "ranker"  # which chapters; all: no split
    prefix_words: Count = 256
    min_words: Count = 10  # of a continuation
    max_words: Count = 128
    overlap: bool = True  # a window at every sentence boundary; False: disjoint continuations
    limit: Count | None = None  # windows, evenly spaced over all
    output: str | None = None  # JSONL that is written; None: in the task's folder

    def __post_init__(self) -> None:
        if self.min_words > self.max_words:
            raise ValueError("window.min_words must be <= window.max_words")


@dataclass
class GeneratorConfig(ServerConfig):
    """The language model that writes negatives and is decoded from.

    An endpoint writes negatives only; ranking and likelihoods need a local model.
    """

    model: str = "bundled:causal-lm"  # any causal LM: folder, bundled:<name> or hub id
    amateur: str | None = None  # of contrastive decoding; None: the model with one token of context
    strategy: Strategy = "nucleus"
    temperature: Positive = 1.0
    top_p: Share = 0.9
    top_k: Count = 40
    typical_p: Inner = 0.9
    tokens_per_word: Positive = 1.4  # budget of a negative: this times the words of its gold
    # end of a negative: its last of . ? ! ; or a sentence end as of golds, the nearest to its
    # gold's length
    ending: Literal["punctuation", "sentence"] = "punctuation"
    attempts: Count = 1  # samples of a negative until one is long enough
    batch_size: Count = 64
    device: str = "auto"


@dataclass
class DecodeConfig:
    """`make run TASK=decode`: continue texts with and without the ranker."""

    # run of this config, a folder written by `make export`, or pretrained: model.pretrained as it
    # is
    run: str = "latest"
    file: str | None = None  # prefixes, one per line; None: of held-back chapters
    num_prefixes: Count = 8
    # decoding strategies, and nucleus samples that are ranked: rerank, perplexity, overlap, beam
    methods: list[str] = field(
        default_factory=lambda: [
            "greedy",
            "ancestral",
            "nucleus",
            "top_k",
            "typical",
            "contrastive_search",
            "contrastive_decoding",
            "perplexity",
            "overlap",
            "rerank",
            "beam",
        ]
    )
    repeats: Count = 1  # runs of the sampling strategies, over which their metrics are averaged
    num_samples: Count = 20  # of the ranked methods
    num_beams: Count = 2
    beam_samples: Count = 10  # segments per beam and round
    segment_tokens: Count = 20
    max_tokens: Count = 115  # of the language model, per continuation
    mauve_model: str | None = None  # causal LM whose last state MAUVE compares; None: the generator
    ab_pair: list[str] = field(default_factory=lambda: ["nucleus", "rerank"])  # of the A/B form


@dataclass
class EvalConfig(RetrievalEval):
    """Suffix identification, in-book retrieval and decoding."""

    part: Literal["dev", "test"] = "test"  # of the bundled set
    num_negatives: Count = 10  # suffixes of the same book per prefix
    batch_size: Count = 128
    lm_prefixes: Whole = (
        0  # prefixes on which the language model's likelihood is the ranker; 0: off
    )
    decode_prefixes: Whole = 0  # prefixes that are continued with and without the ranker; 0: off
    sets: list[str] = field(default_factory=list)  # further identification files below data.root


@dataclass
class PreferenceConfig:
    """`make run TASK=preference`: what raters answered."""

    answers: str | None = None  # CSV
    system: str = "rerank"  # whose wins are counted


@dataclass
class Config(ExperimentConfig):
    """RankGen experiment."""

    data: RankgenData = field(default_factory=RankgenData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of generate, bundle and decode
