"""What can be set in an experiment with contrastive search and SimCTG."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.decoding.options import DecoderConfig
from common.evaluation.own_data import OWN, Judge, OwnData
from common.ranges import Count, Probability, Whole, at_least


@dataclass
class LineData(DataConfig):
    """SimCTG's training text: one line is one example, nothing is packed."""

    # books: paragraphs of the bundled training chapters; file: a text file; synthetic: made up
    source: Literal["synthetic", "books", "file"] = "books"
    file: str | None = None  # source=file: below data.root
    dev_file: str | None = None  # source=file: selects the checkpoint
    length: Annotated[int, at_least(2)] = 256  # tokens of a line, the rest is cut
    limit: Count | None = None  # lines, the first ones

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("data.file and data.source=file belong together")


@dataclass
class ModelConfig:
    """The language model; any causal one of transformers."""

    pretrained: str = "bundled:causal-lm"  # see common.encoders.pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    device: str = "auto"  # of decoding and evaluation
    # weights of every language model that is not trained: decoders, judges, MAUVE's features
    dtype: Literal["float32", "bfloat16"] = "float32"
    # how contrastive search encodes its candidates, see common.decoding.contrastive_search
    passes: Literal["auto", "shared", "expanded", "sequential"] = "auto"


@dataclass
class MethodConfig:
    """SimCTG; contrastive search itself has no parameters."""

    train: bool = True  # False: the language model off the shelf
    margin: Probability = 0.5  # rho; 0: maximum likelihood alone


@dataclass
class EvalConfig(OwnData):
    """Continuations of held-out texts by several decoders."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.TEXTS: Judge(
            {"eval.source": "webtext", "eval.file": OWN, "eval.num_prefixes": 10**6},
            baselines=True,
        )
    }

    # books: bundled held-back chapters; webtext: JSON lines with "text", or .txt; wit: JSON {language:
    # texts}
    source: Literal["synthetic", "books", "webtext", "wit"] = "books"
    file: str | None = None  # webtext and wit: below data.root
    language: str = "en"  # wit
    part: Literal["dev", "test"] = "test"  # of the bundled books
    num_prefixes: Count = 200
    per_chapter: Count = 4  # books
    prefix_tokens: Count = 32
    new_tokens: Count = 96
    min_new_tokens: Whole = 0  # no decoder ends a text before; short texts repeat less
    decoders: dict[str, DecoderConfig] = field(default_factory=dict)
    methods: list[str] = field(default_factory=list)  # which of them, the first is judged; []: all
    draws: Count = 1  # of decoders that sample
    batch_size: Count = 64
    # trigram: of the bundled training chapters; else the name of a causal LM; the first is judged
    scorers: list[str] = field(default_factory=lambda: ["trigram"])
    official_ngram_count: bool = False  # as the released counter, without a text's last n-gram
    mauve: bool = False  # against the human texts
    mauve_features: str | None = None  # a causal LM; None: that of `model`
    untrained: bool = True  # isotropy and perplexity before training, where there is any

    def __post_init__(self) -> None:
        if (self.source in ("webtext", "wit")) != (self.file is not None):
            raise ValueError("eval.file and eval.source=webtext|wit belong together")
        for name in self.methods:
            if name not in self.decoders:
                available = ", ".join(self.decoders)
                raise ValueError(f"eval.methods: '{name}' is none of eval.decoders: {available}")
        if not self.scorers:
            raise ValueError("eval.scorers needs at least one scorer")


@dataclass
class DecodeConfig:
    """`make run TASK=decode`: prompts continued by all methods, side by side."""

    file: str | None = None  # one prompt per line; None: prefixes of the evaluation set
    model: str | None = None  # any causal LM; None: `run`, or model.pretrained without one
    run: str | None = None  # a run of this config, or a folder written by `make export`
    num_prompts: Count = 8
    new_tokens: Count = 64
    ab_pair: list[str] = field(default_factory=list)  # two methods for a blind A/B form


@dataclass
class IsotropyConfig:
    """`make run TASK=isotropy`: any list of models and languages."""

    models: dict[str, list[str]] = field(default_factory=dict)  # language -> models
    file: str | None = None  # JSON {language: texts}; None: bundled held-back chapters as "en"
    num_texts: Count = 2000
    length: Annotated[int, at_least(2)] = 256  # tokens
    batch_size: Count = 32


@dataclass
class RunnerConfig:
    """`make run TASK=summarisation|translation|code`: files of the release, or of the same form."""

    file: str | None = None  # items to answer, below data.root
    # examples that stand before them, below data.root; {split} in the name: a file for each draw
    shots_file: str | None = None
    num_shots: Whole = 1
    split: Count = 1  # which draw of the shots, 1 to 3 in the paper
    splits: list[Count] = field(default_factory=list)  # several, averaged; []: `split`
    limit: Count = 1000
    new_tokens: Count = 128
    execute: bool = False  # code: run the generated programs against the tests, on this machine
    timeout: Count = 3  # seconds of a program


@dataclass
class HumanConfig:
    """`make run TASK=rating_form` and `TASK=ratings`."""

    num_items: Count = 50
    form: str | None = None  # ratings: the form as it was filled in, or a folder of such forms
    key: str | None = None  # ratings: written next to the form; None: that of the task rating_form


@dataclass
class Config(ExperimentConfig):
    """Experiment with contrastive search."""

    data: LineData = field(default_factory=LineData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    isotropy: IsotropyConfig = field(default_factory=IsotropyConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    human: HumanConfig = field(default_factory=HumanConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of the tasks that decode

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method.train and self.model.dtype != "float32":
            raise ValueError("SimCTG trains float32 weights: set model.dtype=float32")
