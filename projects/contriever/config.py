"""What can be set in a Contriever experiment."""

import math
from dataclasses import dataclass, field
from typing import Literal

from common.config import DataConfig, ExperimentConfig
from common.data.text.options import TokenNoise
from common.families.retrieval.config import DenseModel, RetrievalEval, RetrievalSearch, check_queue
from common.families.retrieval.finetuning_options import FinetuneConfig
from common.ranges import Count, NonNegative, Positive, Probability, Rate, Share


@dataclass
class ContrieverData(DataConfig):
    """Token streams without borders of texts, and the two views of a chunk."""

    # bundled: texts of CISI and NPL; files: token shards as `TASK=tokenize` writes them
    source: Literal["synthetic", "bundled", "files"] = "bundled"
    sources: dict[str, str] = field(
        default_factory=dict
    )  # files: name -> folder; "" leaves one out
    sampling_coefficient: NonNegative = 0.0  # P(source) ~ tokens ** this; 0: uniform
    chunk_length: Count = 256  # tokens
    views: Literal["crops", "inverse_cloze"] = "crops"
    ratio_min: Share = 0.05  # share of the chunk that a crop (or the cloze span) takes, at least
    ratio_max: Share = 0.5
    cloze_keep: Probability = 0.1  # inverse_cloze: probability that the span stays in its context
    noise: TokenNoise = field(default_factory=TokenNoise)  # of each view by itself

    def __post_init__(self) -> None:
        # a mapping of the command line is merged with the config's, so a name has to be taken out
        self.sources = {name: path for name, path in self.sources.items() if path}
        if self.ratio_min > self.ratio_max:
            raise ValueError("data needs ratio_min <= ratio_max")
        if math.floor(self.chunk_length * self.ratio_min) < 1:
            raise ValueError("data.ratio_min of data.chunk_length is less than one token")
        if (self.source == "files") != bool(self.sources):
            raise ValueError("data.sources and data.source=files belong together")


@dataclass
class MethodConfig:
    """The objective of the pre-training."""

    pretrain: bool = True  # False: fine-tuning alone, from the encoder as it is
    objective: Literal["moco", "in_batch"] = "moco"
    temperature: Positive = 0.05  # tau, divides the dot products
    queue_size: Count = 131072  # K
    momentum: Probability = 0.9995  # m, of the key encoder
    label_smoothing: Rate = 0.0
    norm_query: bool = False  # unit length, also in fine-tuning, evaluation and search
    norm_document: bool = False
    key_encoder_dropout: bool = True  # as released: keys are computed with dropout
    gather: bool = True  # in_batch: keys of all ranks
    loss_backend: Literal["auto", "dense", "blocked", "triton"] = "auto"


@dataclass
class Finetuning(FinetuneConfig):
    """The second stage, in the memory that there is."""

    chunk_size: Count | None = None  # gradient cache: texts per pass; None: no cache


@dataclass
class TokenizeConfig:
    """`make run TASK=tokenize`: text files (one text per line) -> token shards."""

    input: str | None = None  # file or folder of .txt files
    output: str | None = None  # folder; None: the task's
    shard_lines: Count = 1_000_000  # lines of a shard
    normalize_text: bool = False  # for several languages


@dataclass
class MineConfig:
    """`make run TASK=mine`: hard negatives for fine-tuning, found by a trained encoder."""

    input: str | None = None  # questions; None: finetune.file, or eval.held_out_queries
    corpus: str | None = None  # as a set of eval.beir; None: passages of the questions
    output: str | None = None  # .jsonl; None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`
    num_negatives: Count = 100


@dataclass
class Config(ExperimentConfig):
    """Contriever experiment."""

    data: ContrieverData = field(default_factory=ContrieverData)
    model: DenseModel = field(default_factory=DenseModel)
    method: MethodConfig = field(default_factory=MethodConfig)
    finetune: Finetuning = field(default_factory=Finetuning)
    eval: RetrievalEval = field(default_factory=RetrievalEval)
    search: RetrievalSearch = field(default_factory=RetrievalSearch)
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    mine: MineConfig = field(default_factory=MineConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        devices, nodes = self.trainer.devices, self.trainer.num_nodes
        count = len(devices) if isinstance(devices, list) else devices
        if self.method.pretrain and self.method.objective == "moco" and isinstance(count, int):
            batch = self.data.batch_size * max(1, count) * nodes  # else the module checks
            check_queue(self.method.queue_size, batch * self.trainer.accumulate_grad_batches)
        if not self.method.pretrain and not self.finetune.steps:
            raise ValueError("method.pretrain=false needs finetune.steps: nothing would be trained")
        bundled = self.finetune.steps and self.finetune.file is None
        if bundled and not (self.eval.held_out_queries and self.eval.beir):
            raise ValueError(
                "fine-tuning needs questions: finetune.file, or eval.held_out_queries of eval.beir"
            )
