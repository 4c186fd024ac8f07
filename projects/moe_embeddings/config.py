"""What can be set in an experiment with experts for domains."""

from dataclasses import dataclass, field
from typing import Literal

from common.config import ExperimentConfig
from common.ranges import Count, NonNegative, Positive, Whole
from projects.moe_embeddings.options import (
    BUNDLED_DOMAINS,
    ModelConfig,
    PairData,
    PairsConfig,
    UseConfig,
)


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
class EvalConfig:
    """Protocol: F1-max and ROC-AUC of pairs by domain and on their union."""

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
