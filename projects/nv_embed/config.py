"""What can be set in an NV-Embed experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.config import ExperimentConfig
from common.data.row_map.options import RowMapConfig
from common.decoding.options import ServerConfig
from common.families.retrieval.config import RetrievalData, RetrievalEval, RetrievalSearch
from common.ranges import Count, Positive, Rate, Share, at_least

BUNDLED_EVAL = (
    "wikides",
    "wikides_rerank",
    "snips",
    "banking77",
    "banking77_clusters",
    "nli_pairs",
    "stsb",
    "snips_clusters",
)
SYNTHETIC_EVAL = (
    "retrieval",
    "reranking",
    "classification",
    "clustering",
    "pair_classification",
    "sts",
    "summarisation",
)

SYNTHESIS_FORMATS = ("short-long", "long-short", "short-short")


@dataclass
class ModelConfig:
    """The encoder."""

    # see common.encoders.resolve_pretrained; a released checkpoint brings its pooler
    pretrained: str = "bundled:causal-lm"
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    causal: bool = False  # keep the causal mask (ablation)
    pooling: Literal["last", "mean", "latent", "self_attention"] = "latent"
    num_latents: Count = 512
    heads: Count = 8  # of the pooling layer
    dim_head: Count | None = None  # of the pooling layer; None: width of the model, as released
    lora_rank: Count | None = 16  # None trains all weights
    lora_alpha: Positive = 32.0
    lora_dropout: Rate = 0.1
    lora_targets: str = "all-linear"  # or names of layers, separated by commas
    weights: Literal["float32", "bfloat16"] = "float32"  # of the frozen model
    grad_checkpointing: bool = False
    # passes over a training batch, each of texts of similar length: less padding is computed
    length_groups: Count = 1
    max_length: Annotated[int, at_least(4)] = 512  # tokens outside training
    # which tokens are the instruction: exact; released: the official code's count, one less;
    # pooled: the instruction is pooled too
    instruction_span: Literal["exact", "released", "pooled"] = "exact"

    def __post_init__(self) -> None:
        if self.lora_rank is None and self.weights == "bfloat16":
            raise ValueError("model.weights=bfloat16 is for a frozen model: it needs lora_rank")


@dataclass
class MethodConfig:
    """Objective and order of the stages."""

    temperature: Positive = 0.02  # tau, divides the cosines
    without: list[str] = field(default_factory=list)  # sets of data.sets that are not trained on
    # two_stage: retrieval with in-batch negatives, then everything without; reversed: the same
    # stages the other way round; single and single_in_batch: one stage on everything
    schedule: Literal["two_stage", "reversed", "single", "single_in_batch"] = "two_stage"
    stage_1_steps: Count = 20000  # the second stage has the rest of trainer.max_steps
    stage_2_lr: Positive | None = (
        1.5e-5  # peak rate of stages without in-batch negatives; None: optim.lr
    )
    shared_hard_negatives: bool = True  # in-batch: other queries' hard negatives count too
    mask_own_class: bool = (
        False  # in-batch: what is known to be of the query's class is not a negative (ours)
    )
    gather: bool = True  # in-batch negatives of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class EvalConfig(RetrievalEval):
    """Tasks on bundled (or synthetic) data, and those of MTEB for `make run TASK=mteb`."""

    tasks: list[str] = field(default_factory=lambda: list(BUNDLED_EVAL))
    primary: list[str] = field(default_factory=lambda: ["wikides", "snips", "banking77", "stsb"])
    split: Literal["test", "dev"] = "test"  # dev: for choices, such as that of a learning rate
    shots: Count = 8  # texts of every class that a classification's probe is trained on, as in MTEB
    draws: Count = 10  # of them, whose scores are averaged
    max_items: Count | None = None  # texts, pairs or queries of a task
    untrained: bool = False  # a second model in memory
    # of queries in the sets of eval.beir and in the task search
    instruction: str = "Find passages that answer the question"
    planted: bool = True  # measure the miner against planted positives
    mteb_tasks: list[str] = field(default_factory=list)  # empty: the 56 English ones
    # of the task mteb: run of this config, a folder written by `make export` or in the released
    # layout, or pretrained: model.pretrained as it is
    run: str = "latest"


@dataclass
class SynthesisConfig:
    """`make run TASK=synthesize`: a language model thinks of tasks, then writes examples."""

    model: str = "bundled:causal-lm"  # any causal LM: folder, bundled:<name> or hub id
    formats: list[str] = field(default_factory=lambda: list(SYNTHESIS_FORMATS))
    requests: Count = 1000  # prompts for tasks, per format
    tasks_per_request: Count = 20
    examples: Count = 40000  # prompts for an example, per format
    max_new_tokens: Count = 1024  # of an answer
    temperature: Positive = 1.0
    top_p: Share = 0.95
    batch_size: Count = 16
    device: str = "auto"
    output: str | None = None  # folder; None: the task's

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in SYNTHESIS_FORMATS]
        if unknown or not self.formats:
            raise ValueError(
                f"synthesis.formats: {unknown} are none of {', '.join(SYNTHESIS_FORMATS)}"
            )


@dataclass
class OverlapConfig:
    """`make run TASK=overlap`: training sets without the texts of an evaluation."""

    texts: dict[str, str] = field(default_factory=dict)  # set -> file of its evaluation's texts
    threshold: Share | None = 0.9  # of the BM25 similarity, see the task; None: equal texts alone
    output: str | None = None  # folder; None: the task's


@dataclass
class Config(ExperimentConfig):
    """NV-Embed experiment."""

    data: RetrievalData = field(default_factory=RetrievalData)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    generator: ServerConfig = field(default_factory=ServerConfig)  # in place of synthesis.model
    overlap: OverlapConfig = field(default_factory=OverlapConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)  # of synthesize and mine

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.source == "sets" and not self.data.sets:
            raise ValueError("data.sets names no training set")
        if unknown := set(self.method.without) - set(self.data.sets):
            raise ValueError(f"method.without: data.sets has no {', '.join(sorted(unknown))}")
        sets = SYNTHETIC_EVAL if self.data.source == "synthetic" else BUNDLED_EVAL
        for name in (*self.eval.tasks, *self.eval.primary):
            if name not in sets:
                raise ValueError(f"eval.tasks: no task '{name}'; known: {', '.join(sets)}")
        if not set(self.eval.primary) <= set(self.eval.tasks):
            raise ValueError("eval.primary must be among eval.tasks")
        if self.trainer.max_steps is None:
            raise ValueError("set trainer.max_steps: the steps of both stages together")
        staged = self.method.schedule in ("two_stage", "reversed")
        if staged and self.method.stage_1_steps >= self.trainer.max_steps:
            raise ValueError("method.stage_1_steps must be < trainer.max_steps")
