"""Sections of the config that do not touch training: evaluation and tasks."""

from dataclasses import dataclass, field
from typing import Literal

from common.ranges import Count, Counts, Probability


@dataclass
class EvalConfig:
    """Full ranking; HR@k and NDCG@k."""

    part: Literal["valid", "test"] = "test"
    ks: Counts = field(default_factory=lambda: [5, 10, 20])
    mask_history: bool = False  # leave out a user's own items; the paper's protocol keeps them
    noise: Probability = 0.0  # random items that are put into each test history, as a share of it
    batch_size: Count = 512
    patience: Count | None = None  # validations without a better MRR@10 that end training
    reference: bool = True  # also the untrained encoder and the baselines that count


@dataclass
class RecommendConfig:
    """`make run TASK=recommend` and `TASK=vectors`."""

    input: str | None = None  # histories, a format of data.file; None: some test users
    output: str | None = None  # None: in the task's folder
    run: str = "latest"  # run of this config, or a folder written by `make export`
    k: Count = 10
    mask_history: bool = True  # leave out what a user has taken


@dataclass
class PrepareConfig:
    """`make run TASK=prepare`: a raw log filtered by data.min_user and data.min_item."""

    input: str | None = None  # a format of data.file
    output: str | None = None  # .inter; None: in the task's folder
