"""Families, how each is judged, and the contestants of ``arena/contestants``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from common.config import ROOT, UserError, nearest

CONTESTANTS = ROOT / "arena/contestants"
SEARCH_RUNS = 7  # of every contestant, see `arena.study.search`
SCALE = "scale"  # what is searched of a loss that names nothing else

Role = Literal["contestant", "reference", "control"]


@dataclass(frozen=True)
class Judgement:
    """What contestants are ranked by.

    Attributes:
        metric: of fresh seeds; its items pair the contestants.
        also: further metrics of the table.
        development: settings of the search, so that it reads other data than the judgement.
        chosen_by: metric of the search.
        baselines: names in ``arena/<family>/baselines.py``.
    """

    metric: str
    also: tuple[str, ...]
    development: Mapping[str, Any]
    chosen_by: str
    baselines: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """A family of contestants.

    Attributes:
        judgements: by config; "mini" is that of configs that are not here.
        rates: first learning rates of the search.
        scales: first values of the search for a loss with a scale, 1 / temperature.
    """

    judgements: Mapping[str, Judgement]
    rates: tuple[float, ...]
    scales: tuple[float, ...]

    def judgement(self, scale: str) -> Judgement:
        """That of a config."""
        return self.judgements.get(scale, self.judgements["mini"])


_PROBE = "linear_probe_top1", ("knn20_top1", "uniformity", "effective_rank")
_STS = "sts_average_spearman", ("stsb_test_spearman", "alignment", "uniformity")
_RECALL = "recall_at_1", ("caption_recall_at_1", "clipart_recall_at_1")
_ORDER = "average_ndcg_at_10", ("average_recall_at_100", "average_mrr")
_WITHOUT_DEVELOPMENT = Judgement(
    *_PROBE, {}, "linear_probe_validation_top1", ("raw_pixels", "untrained", "chance")
)
FAMILIES = {
    "images": Family(
        {
            "mini": Judgement(
                *_PROBE,
                {"eval.split": "dev"},
                "linear_probe_top1",
                ("raw_pixels", "untrained", "chance"),
            ),
            "base": _WITHOUT_DEVELOPMENT,
            "smoke": _WITHOUT_DEVELOPMENT,
        },
        rates=(1e-3, 3e-3, 1e-2),
        scales=(2, 5, 10),
    ),
    "sentences": Family(
        {
            "mini": Judgement(
                *_STS,
                {"eval.sets": ["stsb-dev"]},
                "sts_average_spearman",
                ("raw", "whitened", "raw_mean", "jaccard", "tfidf", "untrained"),
            )
        },
        rates=(1e-4, 3e-4, 9e-4),
        scales=(10, 20, 40),
    ),
    "retrieval": Family(
        {
            "mini": Judgement(
                *_ORDER,
                {"eval.beir": [], "eval.dev": ["retrieval-cisi@titles"]},
                "retrieval-cisi_titles_mrr",
                ("bm25", "tfidf", "lsa", "untrained"),
            ),
            "base": Judgement(
                *_ORDER,
                {"eval.beir": [], "eval.dev": ["beir/msmarco@dev"]},
                "msmarco_dev_mrr",
                ("bm25", "untrained"),
            ),
            "smoke": Judgement(
                "synthetic_ndcg_at_10",
                ("synthetic_mrr",),
                {"eval.beir": [], "eval.dev": ["synthetic"]},
                "synthetic_mrr",
                ("tfidf", "untrained"),
            ),
        },
        rates=(1e-3, 2e-3, 4e-3),
        scales=(10, 20, 40),
    ),
    "image_text": Family(
        {
            "mini": Judgement(
                *_RECALL,
                {"eval.split": "dev"},
                "recall_at_1",
                ("raw_pixels", "nearest_captions", "untrained", "chance"),
            ),
            "base": Judgement(
                "imagenet_zeroshot_top1",
                (),
                {"eval.datasets": ["cifar100"]},
                "cifar100_zeroshot_top1",
                (),
            ),
        },
        rates=(1.5e-3, 3e-3, 6e-3),
        scales=(10, 20, 40),
    ),
}


@dataclass
class Contestant:
    """A file of ``arena/contestants``: a loss of two embeddings, or a paper's whole method."""

    loss: str = ""  # module:class with forward(z_1, z_2, scale)
    project: str = ""  # instead of a loss: a project, on the encoder, data and steps of the arena
    args: dict[str, Any] = field(default_factory=dict)  # of the loss's constructor
    settings: dict[str, Any] = field(default_factory=dict)  # further ones of its runs, a.b: value
    # three values of an argument of the loss, or of a setting of the project; none: the scale
    search: dict[str, list[float]] = field(default_factory=dict)
    role: Role = "contestant"  # reference: knows more than the others; control: of the study itself
    source: str = "???"  # paper and equation
    above: list[str] = field(default_factory=list)  # contestants that the source reports it above
    families: list[str] = field(default_factory=lambda: list(FAMILIES))
    name: str = ""

    @property
    def searched(self) -> str:
        """The setting of its own that is searched."""
        return next(iter(self.search), SCALE)

    def values(self, family: Family) -> Sequence[float]:
        """First three values of `searched`; the second one goes with the first rates."""
        return self.search.get(self.searched, family.scales)

    def at(self, rate: float, value: float) -> dict[str, Any]:
        """Settings of a run with a learning rate and a value of `searched`."""
        return {"optim.lr": rate, **self.settings_at(value)}

    def settings_at(self, value: float) -> dict[str, Any]:
        """Settings of a run with a value of `searched`."""
        if self.project:
            return {**self.settings, self.searched: value}
        own = {} if self.searched == SCALE else {self.searched: value}
        settings: dict[str, Any] = {"loss.path": self.loss, "loss.args": {**self.args, **own}}
        settings |= {"loss.scale": value} if self.searched == SCALE else {}
        return settings | self.settings


def read_contestants(
    folders: Iterable[Path] = (), only: Sequence[str] = (), family: str | None = None
) -> list[Contestant]:
    """Contestants by name.

    Args:
        folders: with files of one's own, next to those of the arena.
        only: names; empty: all.
        family: leave out those of other families; None: none.

    Raises:
        UserError: a file that is no contestant, or an unknown name.
    """
    read: dict[str, Contestant] = {}
    for path in sorted(p for folder in (CONTESTANTS, *folders) for p in folder.glob("*.yaml")):
        try:
            merged = OmegaConf.merge(OmegaConf.structured(Contestant), OmegaConf.load(path))
            contestant: Any = OmegaConf.to_object(merged)
        except Exception as error:  # YAML, keys, types and missing values
            raise UserError(f"{path} is no contestant: {str(error).splitlines()[0]}") from error
        if bool(contestant.loss) == bool(contestant.project):
            raise UserError(f"{path}: a contestant has a loss or a project")
        if len(contestant.search) > 1 or any(len(v) != 3 for v in contestant.search.values()):
            raise UserError(f"{path}: search names one setting with three values, as all others do")
        if contestant.project and not contestant.search:
            raise UserError(f"{path}: search names the setting of the project that is searched")
        contestant.name = path.stem
        read[path.stem] = contestant
    for name in only:
        if name not in read:
            raise UserError(f"no contestant '{name}'{nearest(name, read)}")
    return [
        contestant
        for name, contestant in read.items()
        if (not only or name in only) and family in (None, *contestant.families)
    ]
