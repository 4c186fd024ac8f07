"""What can be set in a DefSent+ experiment."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from common.config import ExperimentConfig
from common.families.sentences.config import SearchConfig, SentenceData, StsEval, TextModel
from common.ranges import Count, Positive, Rate, Seed, at_least


@dataclass
class DictionaryData(SentenceData):
    """Entries of a dictionary and their definitions."""

    # wordnet: bundled lemmas; file: lines of entry, tab, definitions joined by <|list_more_def|>
    source: Literal["synthetic", "wordnet", "file"] = "wordnet"  # type: ignore[assignment]
    encoding: str = "utf-8"  # of data.file
    max_length: Annotated[int, at_least(4)] = 150  # tokens of a definition, special ones included
    long: Literal["refuse", "truncate"] = "refuse"  # what happens to longer definitions
    single_piece: bool = False  # only entries that are one piece of the tokenizer's vocabulary
    held_out: Rate = 0.0  # share of the definitions that is never trained on, by their text
    # STS sets whose texts are no definitions here: those of 2012 to 2014 hold some of WordNet
    exclude_sets: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parts:
            raise ValueError("data.parts is for sentences; a dictionary has no parts")


@dataclass
class IcaConfig:
    """Independent components of the last round's entries."""

    enabled: bool = False
    max_iter: Count = 1000
    tol: Positive = 1e-4
    seed: Seed = 42
    scale: Positive = 100.0  # standard deviation of every component


@dataclass
class EntryConfig:
    """What a definition is predicted among."""

    # entries: mean embedding of their definitions; random: noise of the same length (control);
    # lm_head: the frozen word-prediction layer, which is DefSent
    targets: Literal["entries", "random", "lm_head"] = "entries"
    encoding: Literal["ac", "amp"] = "amp"  # average of the [CLS] states, or of the masked means
    ica: IcaConfig = field(default_factory=IcaConfig)


@dataclass
class PoolerConfig:
    """Dense layer and activation between pooling and entries, in training alone."""

    # own: of the checkpoint; lm_head: the dense layer of its masked-LM head; auto: lm_head for
    # RoBERTa, else own
    source: Literal["auto", "own", "lm_head"] = "auto"
    activation: Literal["auto", "tanh", "gelu"] = "auto"  # auto: gelu behind lm_head, else tanh
    # checkpoint of source=lm_head and of entry.targets=lm_head; None: model.pretrained
    lm_head: str | None = None


@dataclass
class TrainConfig:
    """Training of a round."""

    pool: Literal["cls", "mean", "max"] = "mean"  # before the pooler
    lr: list[Positive] = field(default_factory=list)  # one a round; []: optim.lr in all
    freeze_embeddings: bool = False  # words, positions and their layer norm, as DefSent does


@dataclass
class LookupConfig:
    """`make run TASK=lookup`: entries that fit a description."""

    text: str | None = None  # one description
    file: str | None = None  # or one a line
    run: str = "latest"  # run of this config, or a folder written by `make export`
    k: Count = 10
    output: str | None = None  # of TASK=entries; None: in the task's folder


@dataclass
class Config(ExperimentConfig):
    """DefSent+ experiment; entry.targets=lm_head is DefSent.

    `model.pooling` and `model.template` are those of inference, without the pooler.
    """

    data: DictionaryData = field(default_factory=DictionaryData)
    model: TextModel = field(default_factory=lambda: TextModel(pooling="avg"))
    rounds: Count = 3
    restart_from_base: bool = True  # every round; False: it continues from the last one (ablation)
    entry: EntryConfig = field(default_factory=EntryConfig)
    pooler: PoolerConfig = field(default_factory=PoolerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"
    eval: StsEval = field(default_factory=StsEval)
    search: SearchConfig = field(default_factory=SearchConfig)
    lookup: LookupConfig = field(default_factory=LookupConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.pooling == "cls" or self.model.mlp_only_train:
            raise ValueError(
                "model.pooling=cls adds a head; the pooler plays no part in inference: set "
                "model.pooling=cls_before_pooler, avg, max or mask, and mlp_only_train=false"
            )
        if self.entry.targets != "entries" and (self.rounds > 1 or self.entry.ica.enabled):
            raise ValueError(
                f"entry.targets={self.entry.targets} do not change with the rounds: set rounds=1 "
                "and entry.ica.enabled=false"
            )
        if self.entry.targets == "lm_head" and not self.data.single_piece:
            raise ValueError(
                "entry.targets=lm_head can only predict pieces: set data.single_piece=true"
            )
        if self.train.lr and len(self.train.lr) != self.rounds:
            raise ValueError(
                f"train.lr needs one learning rate a round: {len(self.train.lr)} for {self.rounds}"
            )
