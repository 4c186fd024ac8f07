"""What can be set in a PromptReps experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.data.row_map.options import RowMapConfig
from common.evaluation.own_data import Judge
from common.families.retrieval.config import RetrievalEval, RetrievalSearch
from common.ranges import Count, Positive, Probabilities, Probability, Rate, Whole


@dataclass
class HybridSearchConfig(RetrievalSearch):
    """`make run TASK=search` with both searches of the encoder, BM25 or all of them."""

    alpha: Probability = 0.5  # weight of the dense scores among those of the encoder
    zero_shot: bool = False  # search with model.pretrained, no run is needed


@dataclass
class EncodeConfig:
    """`make run TASK=encode`: a collection as files of vectors, in parts that can be shared out."""

    # folder in the BEIR layout (as named, below data.root or bundled), or texts as search.file
    input: str | None = None
    output: str | None = None  # folder; None: the task's
    # query: of a folder in the BEIR layout the queries are read, not the documents
    role: Literal["passage", "query"] = "passage"
    run: str = "latest"  # a run of this config, or a folder written by `make export`
    zero_shot: bool = False
    pickle: bool = False  # also write Tevatron's pickle of (vectors, ids)


@dataclass
class RetrieveConfig:
    """`make run TASK=retrieve`: both searches over what TASK=encode wrote; no model is loaded."""

    passages: str | None = None  # folder that encode.role=passage wrote
    queries: str | None = None  # folder that encode.role=query wrote, by the same model
    alpha: Probability = 0.5  # weight of the dense scores
    judgements: str | None = None  # folder in the BEIR layout whose judgements score the rankings


Attention = Literal["auto", "eager", "sdpa"]
Kind = Literal[
    "first_token",
    "first_word",
    "multi_token_single",
    "multi_token_multi",
    "multi_word_single",
    "multi_word_multi",
    "mean",
]


@dataclass
class PromptConfig:
    """What the model is told; each part can be left out."""

    framed: bool = True  # False: the bare text
    system: bool = True  # the sentence of the system's turn
    words: Literal["one", "three", "free"] = "one"  # free: no number of words is asked for
    lowercase: bool = True  # ask for it
    prefilled: bool = True  # the answer begins with: The word is: "
    chat: bool | None = None  # the model's chat template; None: if it has one
    literal_backslash_n: bool = False  # line breaks as two characters, as in the released commands


@dataclass
class RepresentationConfig:
    """How the answer becomes vectors."""

    kind: Kind = "first_token"  # mean: of the prompt's states, a baseline
    max_tokens: Count = 10  # of an answer
    normalize: bool = True  # dense vectors of unit length
    weights: Literal["logits", "ones"] = (
        "logits"  # ones: in-text tokens all count alike, a baseline
    )
    most: Count = 128  # tokens of the text that are kept
    expansion: Whole = 0  # tokens that are not in the text
    query_length: Count = 512  # tokens of a query, prompt not counted
    passage_length: Count = 512


@dataclass
class ModelConfig:
    """The language model."""

    pretrained: str = "bundled:causal-lm"  # see common.encoders.pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    attention: Attention = "auto"
    weights: Literal["float32", "bfloat16"] = "float32"
    spread: Count = 1  # GPUs over which the layers are spread; only where nothing is trained
    prompt: PromptConfig = field(default_factory=PromptConfig)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)


@dataclass
class InstructConfig:
    """A stage for language models that follow no instruction: to answer the prompt with a word."""

    steps: Whole = 0  # 0: the model is used as it is
    # glosses: bundled WordNet, definition -> word; keywords: bundled texts -> their words of the
    # largest tf-idf; file: JSON lines {"text", "words"}
    source: Literal["synthetic", "glosses", "keywords", "file"] = "keywords"
    file: str | None = None
    texts: list[str] = field(default_factory=lambda: ["wikides"])  # keywords: which bundled texts
    words: Count = 8  # keywords: of a text
    length: Count = 48  # tokens of a text in this stage
    batch_size: Count = 32
    lr: Positive = 1e-3
    warmup_steps: Whole = 0
    framed: bool = True  # False: the word follows the bare text (a control that has seen no prompt)
    keep: bool = (
        False  # weights are kept for runs of the same stage, which load instead of training
    )

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("instruct.source=file and instruct.file belong together")


@dataclass
class TrainData(DataConfig):
    """Supervised training: questions with passages."""

    source: Literal["synthetic", "file"] = "synthetic"
    file: str | None = None  # Tevatron's layout: query, positive_passages, negative_passages
    batch_size: Count = 8  # questions per device
    group_size: Count = 16  # passages of a question: a positive and negatives
    query_length: Count = 32  # tokens in training, prompt not counted
    passage_length: Count = 156

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.file is not None):
            raise ValueError("data.source=file and data.file belong together")


@dataclass
class MethodConfig:
    """The supervised objective."""

    supervised: bool = False  # False: zero-shot, nothing is trained on questions
    hybrid: bool = True  # the sparse loss alongside the dense one
    temperature: Positive = 0.01  # tau of the dense loss, divides cosines
    lora_rank: Count | None = 8  # None: all weights are trained
    lora_alpha: Positive = 64.0
    lora_dropout: Rate = 0.1
    lora_targets: str = "q_proj,k_proj,v_proj,o_proj,down_proj,up_proj,gate_proj"
    grad_checkpointing: bool = False
    gather: bool = True  # passages of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class Row:
    """One further row of the table: another model, other parts of the prompt."""

    pretrained: str | None = None  # None: the model of the run
    prompt: PromptConfig = field(default_factory=PromptConfig)
    kind: Kind = "first_token"


@dataclass
class EvalConfig(RetrievalEval):
    """Evaluation; ``untrained`` adds the model before any stage."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        Layout.JUDGED: Judge(
            {
                **RetrievalEval.judges[Layout.JUDGED].settings,
                "eval.rows": {},
                "eval.probe": 0,
                "eval.untrained": True,
            },
            baselines=True,
        )
    }

    shard_size: Count = 50_000  # a passage has up to 128 weighted tokens alongside its vector
    untrained: bool = False
    ranking: Literal["hybrid", "dense", "sparse"] = "hybrid"  # which has metrics without a prefix
    alpha: Probability = 0.5  # weight of the dense scores
    alphas: Probabilities = field(
        default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    )
    depth: Count = 1000  # documents of each list
    remove_query: bool = True  # the document with the id of the query is not a hit
    rows: dict[str, Row] = field(default_factory=dict)  # zero-shot rows of the same table
    probe: Whole = 0  # held-out texts of the answer stage whose word is guessed


@dataclass
class Config(ExperimentConfig):
    """PromptReps experiment."""

    data: TrainData = field(default_factory=TrainData)
    model: ModelConfig = field(default_factory=ModelConfig)
    instruct: InstructConfig = field(default_factory=InstructConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    search: HybridSearchConfig = field(default_factory=HybridSearchConfig)
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    retrieve: RetrieveConfig = field(default_factory=RetrieveConfig)
    task: RowMapConfig = field(default_factory=RowMapConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.weights == "bfloat16" and self.instruct.steps:
            raise ValueError("instruct.steps trains all weights: it needs model.weights=float32")
        trained = self.instruct.steps or self.method.supervised
        if self.model.spread > 1 and trained:
            raise ValueError("model.spread > 1 is for a model that is not trained")
        kind = self.model.representation.kind
        if self.method.supervised and kind not in ("first_token", "mean"):
            raise ValueError("supervised training is for representation.kind=first_token")
        learnt = self.instruct.steps and self.instruct.source in ("synthetic", "file")
        if self.eval.probe and learnt:
            raise ValueError("eval.probe needs held-out texts: instruct.source=glosses or keywords")
