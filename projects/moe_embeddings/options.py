"""Options of documents, encoder and tasks; nothing here imports torch."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from common.config import DataConfig
from common.ranges import Count, Positive, Probability, Rate, at_least

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
    # dense: one feed-forward layer for all; the others see common.encoders.text.mixture_of_experts
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
    file: str | None = None  # .jsonl with text and domain; None: documents of the evaluation
    output: str | None = None  # embed: folder; None: the task's
    query: str | None = None  # search: a text; None: the first document of the file
    query_domain: str | None = None  # its domain
    domain: str | None = None  # search: only documents of it; None: of all
    k: Count = 5
