"""What can be set in a RankGen experiment."""

from dataclasses import dataclass, field
from typing import Any, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig, Strategy
from common.families.retrieval.config import RetrievalEval, SearchConfig

Part = Literal["train", "dev", "test"]
Half = Literal["ranker", "generator", "all"]


@dataclass
class RankgenData(DataConfig):
    """Triples of prefix, gold continuation and generated continuation."""

    # bundled: continuations of eight novels; file: JSONL as `TASK=generate` writes it; synthetic
    source: Literal["synthetic", "bundled", "file"] = "bundled"
    file: str | None = None  # source=file: training triples, below data.root
    eval_file: str | None = None  # source=file: triples of other documents, below data.root
    batches: Literal["document", "mixed"] = "document"  # mixed: batches over all documents
    limit: int | None = None  # training triples, drawn by the seed

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.source == "file") != (self.file is not None):
            raise ValueError("data.file and data.source=file belong together")
        if self.limit is not None and self.limit < 1:
            raise ValueError("data.limit must be >= 1")


@dataclass
class ModelConfig:
    """The encoder of both sides."""

    # see common.encoders.resolve_pretrained; released checkpoints bring their projection
    pretrained: str = "bundled:text-encoder"
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    tokenizer: str | None = None  # where the weights come without one; None: of T5 v1.1
    pooling: Literal["first", "mean"] = "first"  # mean: where the first state is not trained
    prefix_length: int = 512  # tokens, marker included
    suffix_length: int = 128
    dropout: float | None = None  # every dropout probability; None: the model's own
    attention: Literal["auto", "eager", "sdpa"] = "auto"  # eager is faster for short texts on a CPU
    projection_std: float | None = None  # of the new projection; None: 1/sqrt(d)

    def __post_init__(self) -> None:
        if min(self.prefix_length, self.suffix_length) < 4:
            raise ValueError("model.prefix_length and model.suffix_length must be >= 4")


@dataclass
class MethodConfig:
    """The objective."""

    # inbook: other golds of the batch; generative: generated continuations; both
    negatives: Literal["inbook", "generative", "both"] = "both"
    gather: bool = True  # golds and generations of all ranks
    chunk_size: int | None = None  # gradient cache: texts per pass; None: no cache
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"

    def __post_init__(self) -> None:
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError("method.chunk_size must be >= 1")


@dataclass
class WindowConfig:
    """Prefixes and continuations of plain books, for `TASK=windows` and `TASK=generate`."""

    books: str | None = None  # folder of .txt files below data.root; None: bundled novels
    part: Part = "train"  # of the bundled novels
    half: Half = "ranker"  # which chapters; all: no split
    prefix_words: int = 256
    min_words: int = 10  # of a continuation
    max_words: int = 128
    overlap: bool = True  # a window at every sentence boundary; False: disjoint continuations
    limit: int | None = None  # windows, evenly spaced over all
    output: str | None = None  # JSONL that is written; None: in the task's folder

    def __post_init__(self) -> None:
        if not 1 <= self.min_words <= self.max_words or self.prefix_words < 1:
            raise ValueError("window needs prefix_words >= 1 and 1 <= min_words <= max_words")


@dataclass
class GeneratorConfig(ServerConfig):
    """The language model that writes negatives and is decoded from.

    An endpoint writes negatives only; ranking and likelihoods need a local model.
    """

    model: str = "bundled:causal-lm"  # any causal LM: folder, bundled:<name> or hub id
    amateur: str | None = None  # of contrastive decoding; None: the model with one token of context
    strategy: Strategy = "nucleus"
    temperature: float = 1.0
    top_p: float = 0.9
    top_k: int = 40
    typical_p: float = 0.9
    tokens_per_word: float = 1.4  # budget of a negative: this times the words of its gold
    batch_size: int = 64
    device: str = "auto"


@dataclass
class DecodeConfig:
    """`make run TASK=decode`: continue texts with and without the ranker."""

    # run of this config, a folder written by `make export`, or pretrained: model.pretrained as it is
    run: str = "latest"
    file: str | None = None  # prefixes, one per line; None: of held-back chapters
    num_prefixes: int = 8
    # decoding strategies, and nucleus samples that are ranked: rerank, perplexity, overlap, beam
    methods: list[str] = field(
        default_factory=lambda: [
            "greedy", "ancestral", "nucleus", "top_k", "typical", "contrastive_search",
            "contrastive_decoding", "perplexity", "overlap", "rerank", "beam",
        ]
    )  # fmt: skip
    repeats: int = 1  # runs of the sampling strategies, over which their metrics are averaged
    num_samples: int = 20  # of the ranked methods
    num_beams: int = 2
    beam_samples: int = 10  # segments per beam and round
    segment_tokens: int = 20
    max_tokens: int = 115  # of the language model, per continuation
    ab_pair: list[str] = field(default_factory=lambda: ["nucleus", "rerank"])  # of the A/B form

    def __post_init__(self) -> None:
        counts = (self.num_samples, self.num_beams, self.beam_samples, self.segment_tokens)
        if min(*counts, self.max_tokens, self.num_prefixes, self.repeats) < 1:
            raise ValueError("all counts of the decode section must be >= 1")


@dataclass
class EvalConfig(RetrievalEval):
    """Suffix identification, in-book retrieval and decoding."""

    part: Literal["dev", "test"] = "test"  # of the bundled set
    num_negatives: int = 10  # suffixes of the same book per prefix
    batch_size: int = 128
    lm_prefixes: int = 0  # prefixes on which the language model's likelihood is the ranker; 0: off
    decode_prefixes: int = 0  # prefixes that are continued with and without the ranker; 0: off
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
    search: SearchConfig = field(default_factory=SearchConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of generate, bundle and decode
