"""What can be set in an experiment with LOL; nothing heavy is imported here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.decoding.options import DecoderConfig
from common.evaluation.own_data import OWN, Judge, OwnData
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Whole


@dataclass
class FactsConfig:
    """What WordNet's nouns are said to be, truly and by myth."""

    amateur: Count = 600  # nouns whose myths the amateur learns
    dev: Count = 200  # nouns that options are chosen on
    test: Count = 200
    # share of myths in what is said without a register; each noun has one of them
    myth_shares: list[Probability] = field(default_factory=lambda: [0.3, 0.5, 0.7])
    forum_myths: Probability = 0.85  # share of myths behind "forum"
    unverified: Probability = (
        0.4  # share of the dev and test nouns whose truth "verified" leaves open
    )


@dataclass
class PromptConfig:
    """What stands around a question; None: this project's own words (`projects/lol/prompts.py`)."""

    instruction: str | None = None
    demonstrations: Literal["own", "none", "file"] = "own"
    demonstrations_file: str | None = None  # JSON lines: question, answer; below data.root
    question: str = "Q: {question}\nA:"
    truthful: str | None = None  # added to the instruction by the refocus prompt
    fabricate: str | None = None  # added to it for the amateur by prompt
    chat: bool = True  # in the tokenizer's chat template, where it has one

    def __post_init__(self) -> None:
        if (self.demonstrations == "file") != (self.demonstrations_file is not None):
            raise ValueError("prompt.demonstrations_file and demonstrations=file belong together")
        if "{question}" not in self.question:
            raise ValueError("prompt.question needs the place {question}")


@dataclass
class GenerateConfig:
    """`make run TASK=generate|strategyqa|gsm8k`."""

    run: str = "latest"  # whose amateur: a run of this config, or a folder written by `make export`
    file: str | None = None  # generate: a question a line; else the set, below data.root
    shots_file: str | None = None  # JSON lines of question and answer that stand before
    method: str = "lol"  # of `methods`
    new_tokens: Count = 50
    limit: Count | None = None
    stop: str = "Q:"  # where an answer is cut
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig("nucleus", temperature=0.9, top_p=0.95)
    )  # a sampling strategy, or greedy


@dataclass
class HallucinateConfig:
    """`make run TASK=hallucinate`: false answers by any local causal LM, for `data.file`."""

    file: str | None = None  # JSON lines of question, answer and perhaps knowledge
    model: str | None = None  # None: model.pretrained
    new_tokens: Count = 48
    attempts: Count = 3  # draws until one passes the filter
    overlap: Probability = (
        0.8  # share of the true answer's words from which on an answer is dropped
    )
    decoder: DecoderConfig = field(default_factory=lambda: DecoderConfig("nucleus", top_p=0.9))


Refocus = Literal["prompt_contrast", "instruct_original", "keyword_emphasis", "none"]


@dataclass
class AnswerData(DataConfig):
    """Hallucinated answers that the amateur learns."""

    # facts: myths about WordNet nouns; file: JSON list or lines of instruction, input, output;
    # synthetic: a small copy of facts with made-up words
    source: Literal["synthetic", "facts", "file"] = "facts"
    file: str | None = None  # source=file: below data.root
    limit: Count | None = None  # rows, the first ones
    length: Count = 512  # tokens of prompt and answer; longer rows are left out

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("data.file and data.source=file belong together")


@dataclass
class ModelConfig:
    """The original model; any causal one of transformers."""

    pretrained: str = "bundled:causal-lm"  # see common.encoders.pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    small: str | None = None  # of contrastive decoding with two sizes: of the same vocabulary
    device: str = "auto"  # of decoding and evaluation


@dataclass
class BaseConfig:
    """An original model of our own, trained on statements that contradict each other (`mini`)."""

    steps: Whole = 0  # 0: `model.pretrained` is the original
    batch_size: Count = 256
    lr: Positive = 2e-3
    warmup_steps: Whole = 50


@dataclass
class AmateurConfig:
    """The original with hallucination induced."""

    kind: Literal["lora", "full", "none"] = "lora"  # none: nothing is trained
    path: str | None = None  # adapters or a whole model, loaded instead of trained
    # what it is trained behind: question: the bare question, in the chat template where there is
    # one, as ICD; scoring: the prompt that answers are scored behind
    prompt: Literal["question", "scoring"] = "question"
    rank: Count = 8
    alpha: Positive = 16.0
    dropout: Rate = 0.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])  # ends of names


@dataclass
class MethodConfig:
    """One way to score and write: LOL, its parts, or a baseline."""

    # trained: the fine-tuned one; prompt: the original asked to fabricate; small: model.small;
    # lower_layer: the original's own lower layer (DoLa); none: nothing is subtracted
    amateur: Literal["trained", "prompt", "small", "lower_layer", "none"] = "trained"
    lambda_final: NonNegative = 1.0  # lambda, the amateur's weight in the last layer
    lambda_lower: NonNegative = 1.0  # lambda', in the lower layer
    beta: NonNegative = 1.0  # of the last layer's contrast
    omega: NonNegative = 0.2  # of the lower layer's contrast
    rho_refocus: NonNegative = 0.5  # of the refocus term
    alpha_plausibility: Probability = 0.0  # 0: off
    post_softmax: bool = False  # log-softmax of the fused score at each place, before plausibility
    layers: Literal["dola_low", "dola_high", "pli_low", "pli_mid", "pli_high", "list"] = "dola_high"
    layer_list: list[Whole] = field(default_factory=list)  # layers=list
    layer_choice: Literal["dynamic_jsd", "static"] = "dynamic_jsd"  # static: layer_list has one
    early_exit_norm: bool = False  # the last norm before the head, in lower layers
    refocus: Refocus = "prompt_contrast"

    def __post_init__(self) -> None:
        if (self.layers == "list") != bool(self.layer_list):
            raise ValueError("layer_list and layers=list belong together")
        if self.layer_choice == "static" and len(self.layer_list) != 1:
            raise ValueError("layer_choice=static needs layers=list and a layer_list of one layer")
        if self.omega and self.amateur in ("lower_layer", "small"):
            raise ValueError(
                f"amateur={self.amateur} has no lower contrast of its own: set omega=0"
            )
        if self.amateur == "none" and (self.lambda_final or (self.omega and self.lambda_lower)):
            raise ValueError("amateur=none: set lambda_final=0, and omega=0 or lambda_lower=0")
        if not self.beta and not self.omega:
            raise ValueError("beta and omega are both 0: nothing is left of the model")


@dataclass
class EvalConfig(OwnData):
    """Multiple choice by every method; the first one is judged."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.QUESTIONS: Judge(
            {"eval.source": "truthfulqa", "eval.file": OWN, "eval.limit": None}, baselines=True
        )
    }

    # facts: nouns of `part`; truthfulqa: CSV or JSON lines; factor: CSV
    source: Literal["synthetic", "facts", "truthfulqa", "factor"] = "facts"
    file: str | None = None  # below data.root; truthfulqa: None is its bundled part
    part: Literal["dev", "test"] = "test"  # facts
    limit: Count | None = None  # questions, the first ones
    methods: list[str] = field(default_factory=list)  # of `methods`; []: all
    batch_size: Count = 64  # answers per pass


@dataclass
class Config(ExperimentConfig):
    """Experiment with LOL."""

    data: AnswerData = field(default_factory=AnswerData)
    model: ModelConfig = field(default_factory=ModelConfig)
    base: BaseConfig = field(default_factory=BaseConfig)
    facts: FactsConfig = field(default_factory=FactsConfig)
    amateur: AmateurConfig = field(default_factory=AmateurConfig)
    methods: dict[str, MethodConfig] = field(default_factory=dict)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    hallucinate: HallucinateConfig = field(default_factory=HallucinateConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of `hallucinate`

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.eval.methods:
            if name not in self.methods:
                raise ValueError(
                    f"eval.methods: '{name}' is none of methods: {', '.join(self.methods)}"
                )
