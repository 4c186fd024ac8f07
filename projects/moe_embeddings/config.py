"""What can be set in an experiment with experts for domains."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.config import DataConfig, ExperimentConfig
from common.data.layouts import Layout
from common.evaluation.own_data import Judge, OwnData
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Whole, at_least

BUNDLED_DOMAINS = ("cisi", "npl", "esco", "docstrings")


@dataclass
class PairData(DataConfig):
    """Pairs of documents of several domains."""

    # files: folders as `TASK=pairs` writes them; bundled: see BUNDLED_DOMAINS and the card
    source: Literal["synthetic", "bundled", "files"] = "bundled"
    domains: list[str] = field(default_factory=list)  # in the order of their experts
    train_domains: list[str] = field(default_factory=list)  # trained on; empty: all
    paths: dict[str, str] = field(default_factory=dict)  # files: domain -> folder below data.root
    train_pairs: Count | None = None  # of a domain, drawn by the seed; None: all
    test_pairs: Count | None = None  # bundled: positive ones of a domain, at most
    swap_prob: Probability = 0.5  # that a and b of a training pair change places
    batches: Literal["mixed", "single_domain"] = "mixed"
    max_length: Annotated[int, at_least(4)] = 512  # tokens of a document

    def __post_init__(self) -> None:
        if len({d.upper() for d in self.domains}) < len(self.domains) or not self.domains:
            raise ValueError("data.domains needs at least one name, each once, whatever its case")
        means = {"macro", "home", "all"} if len(self.domains) > 1 else {"macro", "home"}
        if taken := means.intersection(self.domains):
            raise ValueError(
                f"data.domains: '{min(taken)}' is the name of a mean in the metrics, take another"
            )
        unknown = [d for d in (*self.train_domains, *self.paths) if d not in self.domains]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is not in data.domains")
        if self.source == "files" and set(self.paths) != set(self.domains):
            raise ValueError("data.source=files needs a folder in data.paths for every domain")
        strange = [d for d in self.domains if d not in BUNDLED_DOMAINS]
        if self.source == "bundled" and strange:
            raise ValueError(f"bundled domains are {', '.join(BUNDLED_DOMAINS)}, not {strange[0]}")


@dataclass
class ModelConfig:
    """Transformer, experts, pooler."""

    pretrained: str = "bundled:text-encoder"  # see common.encoders.resolve_pretrained
    config: dict[str, Any] | None = None  # with pretrained=random: model_type and its fields
    tokenizer: str | None = None  # with pretrained=random: of other weights; None: the built-in one
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    dropout: Rate | None = None  # of the hidden states; None: the architecture's
    attention_dropout: Rate | None = None
    # dense: one feed-forward layer for all; for the others see mixture_of_experts.py
    routing: Literal["dense", "enforced", "switch", "sentence", "token"] = "enforced"
    num_experts: Count | None = None  # None: one for each domain, which "enforced" needs
    top_k: Count = 2  # experts of a text or token: sentence, token
    layers: Literal["all", "middle"] = "all"  # middle: layer L // 2 alone
    # copy: the layer as it is (2025); gated: norm before it and a gate (2024, BERT alone)
    block: Literal["copy", "gated"] = "copy"
    pooler: Literal["mean_mlp", "cls"] = "mean_mlp"
    domain_tokens: bool = True  # [DOMAIN] takes the place of [CLS]
    # adapters on the experts; pooler and routers are trained, the rest is frozen, so that domain
    # tokens stay copies of [CLS]; None: all is trained
    lora_rank: Count | None = None
    lora_alpha: Positive = 32.0

    def __post_init__(self) -> None:
        if self.tokenizer is not None and self.pretrained != "random":
            raise ValueError("model.tokenizer needs model.pretrained=random")
        if self.routing == "dense" and (self.block == "gated" or self.lora_rank is not None):
            raise ValueError(
                "model.block=gated and model.lora_rank need experts: set model.routing"
            )


@dataclass
class PairsConfig:
    """`make run TASK=pairs`: citations and documents -> pairs for training and evaluation."""

    citations: str | None = None  # .csv, .tsv or .jsonl with the columns citing, cited
    documents: str | None = None  # .jsonl with id and text, and domain if there are several
    output: str | None = None  # folder; None: the task's
    shares: tuple[Rate, Rate] = (0.1, 0.2)  # of the documents, for validation and test
    most: Count | None = 20000  # positive pairs of a domain and part


@dataclass
class UseConfig:
    """`make run TASK=embed` and `TASK=search`: documents of all domains in one index."""

    run: str = "latest"  # run of this config, or a folder written by `make export`
    # .jsonl with text, domain and perhaps _id; None: documents of the evaluation
    file: str | None = None
    # embed: folder, None: the task's; search: .jsonl file of the hits, None: they are only printed
    output: str | None = None
    query: str | None = None  # search: a text; None: the first document of the file
    query_domain: str | None = None  # its domain
    domain: str | None = None  # search: only documents of it; None: of all
    k: Count = 5


@dataclass
class MethodConfig:
    """Objective, losses of the router, assignment."""

    loss: Literal["mnr", "mnr_plus", "clip"] = "mnr_plus"
    normalize: bool = False  # unit vectors in the loss
    temperature: Positive | None = None  # divides the similarities; None: 1
    learn_temperature: bool = False
    gather: bool = True  # documents of all ranks
    balance_weight: NonNegative = 0.0  # of the load-balancing loss
    router_loss: Literal["none", "mutual_information", "specified"] = "none"
    router_weight: NonNegative = 0.01
    detached_mi: bool = False  # as released: from a growing table, without gradient
    # hashed: expert by the hash of a document, in training and evaluation (control)
    assignment: Literal["domain", "hashed"] = "domain"
    patience: Count | None = None  # validations without a gain before training stops; None: never
    monitor: Literal["f1", "loss"] = "f1"  # of the validation: selects the checkpoint, and stops

    def __post_init__(self) -> None:
        if self.learn_temperature and self.temperature is None:
            raise ValueError("method.learn_temperature needs method.temperature, where it begins")
        if self.loss == "clip" and self.temperature is None:
            raise ValueError("method.loss=clip needs method.temperature")


@dataclass
class EvalConfig(OwnData):
    """Protocol: F1-max and ROC-AUC of pairs by domain and on their union."""

    judges: ClassVar[Mapping[Layout, Judge]] = {
        layout: Judge() for layout in (Layout.PAIRS, Layout.LABELLED, Layout.JUDGED)
    }

    part: Literal["test", "valid"] = "test"
    batch_size: Count = 64
    untrained: bool = True  # also the model before training, as untrained_*
    lexical: bool = True  # also TF-IDF, as tfidf_*
    wrong_routing: bool = True  # also every document with the next domain's expert
    gradients: bool = True  # also how gradients of the domains agree
    references: dict[str, str] = field(default_factory=dict)  # row -> ``pretrained:`` string
    # of the references: mean over tokens, first token, or last token (decoders)
    reference_pooling: Literal["avg", "cls_before_pooler", "last_token"] = "avg"


@dataclass
class Config(ExperimentConfig):
    """Experiment with experts for domains."""

    data: PairData = field(default_factory=lambda: PairData(domains=list(BUNDLED_DOMAINS[:3])))
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    use: UseConfig = field(default_factory=UseConfig)
    hashes: Whole = 0  # of the control method.assignment=hashed: another number, another assignment

    def __post_init__(self) -> None:
        super().__post_init__()
        count, kinds = self.model.num_experts, len(self.data.domains)
        if self.model.routing == "enforced" and count not in (None, kinds):
            raise ValueError(f"model.num_experts={count}, but enforced routing has {kinds} domains")
        if self.model.routing in ("sentence", "token") and self.model.top_k > (count or kinds):
            raise ValueError(
                "model.top_k is larger than model.num_experts, or the number of domains"
            )
        learned = self.model.routing in ("switch", "sentence", "token")
        losses = self.method.balance_weight > 0 or self.method.router_loss != "none"
        if losses and not learned:
            raise ValueError("losses of the router need model.routing=switch, sentence or token")
        seen = self.method.balance_weight > 0 or (
            self.method.router_loss != "none" and not self.method.detached_mi
        )
        if self.model.routing == "switch" and not seen:
            raise ValueError(
                "model.routing=switch trains its router by method.balance_weight or "
                "method.router_loss alone: set one"
            )
        if self.method.router_loss == "specified" and (count or kinds) < kinds:
            raise ValueError("method.router_loss=specified needs an expert for every domain")
        if self.method.patience is not None and self.trainer.val_every_n_steps is None:
            raise ValueError("method.patience needs trainer.val_every_n_steps")
