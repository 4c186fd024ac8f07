"""Config sections of GLUE: data with label noise, pseudo labels, adversarial terms.

No torch here.
"""

from dataclasses import dataclass, field
from typing import Literal

from common.config import DataConfig
from common.data.text.labelled.glue_tasks import GLUE, GlueName, GlueTask, Source
from common.ranges import Count, NonNegative, Positive, Probability, Share, Whole


@dataclass
class GlueData(DataConfig):
    """One task of GLUE."""

    task: GlueName = "sst2"  # see common.data.text.labelled.glue
    source: Source = "official"  # official: GLUE's TSV files; bundled: SST-2's full sentences
    limit: Count | None = None  # training examples, drawn by the seed; None: all
    # wnli: the candidates of a premise compete; False classifies each by itself, which gives the
    # majority class
    wnli_ranked: bool = True
    noise: Probability = 0.0  # share of the training labels that is flipped, by the seed
    # source=file: CSV, TSV or JSON lines; here or below data.root. target_file: inputs to be
    # labelled, the part "test" of source=file, of any source with transductive.part=target
    train_file: str | None = None
    dev_file: str | None = None
    target_file: str | None = None

    def __post_init__(self) -> None:
        if (self.source == "file") != (self.train_file is not None):
            raise ValueError("data.train_file and data.source=file belong together")
        if self.dev_file is not None and self.source != "file":
            raise ValueError("data.dev_file is read with data.source=file alone")
        if self.noise and GLUE[self.task].is_regression:
            raise ValueError("data.noise flips classes; stsb has scores")

    @property
    def glue_task(self) -> GlueTask:
        """Classes, texts and files."""
        return GLUE[self.task]

    @property
    def ranks_candidates(self) -> bool:
        """Whether rows with one premise compete."""
        return self.task == "wnli" and self.wnli_ranked

    def file(self, part: str) -> str | None:
        """Own file of a part."""
        target = self.target_file
        return {
            "train": self.train_file,
            "dev": self.dev_file,
            "test": target,
            "target": target,
        }.get(part)

    def check_parts(self, *parts: str) -> None:
        """Refuse parts whose own file is missing, and a target that nothing reads.

        Args:
            parts: those that are evaluated on and adapted to.

        Raises:
            ValueError: see above.
        """
        from_file = [part for part in parts if part == "target" or self.source == "file"]
        for part in from_file:
            if self.file(part) is None:
                key = "data.dev_file" if part == "dev" else "data.target_file"
                raise ValueError(f"no file is given for the part '{part}': set {key}")
        if self.target_file is not None and not {"test", "target"} & set(from_file):
            raise ValueError(
                "nobody reads data.target_file: set transductive.part=target (or eval.part=test"
                " with data.source=file)"
            )


@dataclass
class SiftConfig:
    """Adversarial fine-tuning, see projects.vega.encoders.perturbation."""

    enabled: bool = False
    alpha: NonNegative = 1.0  # weight of the term
    lr: Positive = 1e-4  # epsilon, length of the ascent step
    init: Positive = 1e-2  # deviation of the first perturbation
    layer: str = "embeddings.LayerNorm"  # end of the name of the norm that is changed


@dataclass
class SelfCalibrationConfig:
    """Soft targets for training examples whose label a confident model contradicts."""

    enabled: bool = False
    k: Count = 5  # folds; 1: the model re-reads its own training set
    threshold: Share = 0.9  # least probability of another class
    mu: Probability = 0.5  # weight of the model in the target


@dataclass
class TransductiveConfig:
    """Training that continues with the model's own labels of the inputs that are to be labelled."""

    enabled: bool = False
    # whose inputs; None: those of the part that is evaluated on; target: of data.target_file
    part: Literal["dev", "test", "target"] | None = None
    rounds: Whole = 1
    threshold: Probability = 0.9  # least probability of a pseudo label; 0: all of them
    soft: bool = False  # probabilities as targets, in place of the most likely class
    lr_scale: Share = 0.3
    epochs: Positive = 1.0  # over training examples and pseudo labels


@dataclass
class SubmitConfig:
    """`make run TASK=submit`: files for GLUE's leaderboard."""

    # task=run (id or folder) or exported folder; {}: the newest finished run of every task
    runs: dict[str, str] = field(default_factory=dict)
    train: bool = False  # train the tasks that have no run, with this config and its overrides
    # mean of the logits of all finished runs that differ from a task's newest one in the seed alone
    average: bool = False
    parts: Literal["test", "dev"] = "test"  # dev: a rehearsal on the parts with public labels
