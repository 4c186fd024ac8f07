"""The study of a family: the same search for every contestant, then fresh seeds, then statistics.

Runs are ordinary runs of ``arena_<family>``; a finished one is not repeated, an interrupted one
goes on where it was.
"""

import datetime
import gzip
import hashlib
import importlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import OmegaConf

from arena.mechanisms import MECHANISMS
from arena.statistics import differences, standings
from common import __version__
from common.config import ROOT, UserError, load, nearest, to_yaml
from common.engine import workspace as ws
from common.engine.comparison.runs import present_code, saved_items
from common.engine.comparison.values import values_of
from common.engine.provenance import lock_hash
from common.engine.tracking import read_metrics
from common.evaluation.resampling import Scores
from common.files import write_bytes
from common.registry import config_class

CONTESTANTS = ROOT / "arena/contestants"
RESULTS = ROOT / "results/arena"


@dataclass(frozen=True)
class Family:
    """What a family of contestants is ranked by.

    Attributes:
        metric: of fresh seeds; its items pair the contestants.
        also: further metrics of the table.
        rates: learning rates of the search, the second one in the middle.
        scales: values of the search for a loss with a scale, 1 / temperature.
        development: settings of the search where the data have a development part.
        held_out: metric of the search where they have none.
        batch_labels: whether a batch has classes, for references that read them.
    """

    metric: str
    also: tuple[str, ...]
    rates: tuple[float, ...]
    scales: tuple[float, ...]
    development: Mapping[str, Any]
    held_out: str
    batch_labels: bool


FAMILIES = {
    "images": Family(
        metric="linear_probe_top1",
        also=("knn20_top1", "uniformity", "effective_rank"),
        rates=(1e-3, 3e-3, 1e-2),
        scales=(2, 5, 10),
        development={"eval.split": "dev"},
        held_out="linear_probe_validation_top1",
        batch_labels=True,
    ),
    "sentences": Family(
        metric="sts_average_spearman",
        also=("stsb_test_spearman", "alignment", "uniformity"),
        rates=(1e-4, 3e-4, 1e-3),
        scales=(10, 20, 40),
        development={"eval.sets": ["stsb-dev"]},
        held_out="sts_average_spearman",
        batch_labels=False,
    ),
}
BASELINES = {
    "images": ("raw_pixels", "untrained", "chance"),
    "sentences": ("raw", "whitened", "jaccard", "tfidf", "untrained"),
}
SEARCH_SEED, SEEDS = 100, (11, 12, 13, 14)
SEARCH_RUNS = 5  # three rates, then two further values of a setting, for every contestant
SCALE = "scale"  # what is searched of a loss that names nothing else
COPY, BROKEN, COPIED = "nt_xent_again", "mismatched", "nt_xent"  # controls, and what they copy
COPY_SEEDS = (21, 22, 23, 24)

Role = Literal["contestant", "reference", "control"]


@dataclass
class Contestant:
    """A file of ``arena/contestants``."""

    loss: str = "???"  # module:class with forward(z_1, z_2, scale)
    args: dict[str, Any] = field(default_factory=dict)  # of its constructor
    # three values of one of its arguments; none: its scale is searched
    search: dict[str, list[float]] = field(default_factory=dict)
    role: str = "contestant"  # reference: knows more than the others; control: of the study itself
    source: str = "???"  # paper and equation
    above: list[str] = field(default_factory=list)  # contestants that the source reports it above
    name: str = ""

    @property
    def searched(self) -> str:
        """The setting of its own that is searched."""
        return next(iter(self.search), SCALE)

    def values(self, family: Family) -> Sequence[float]:
        """Three values of `searched`."""
        return self.search.get(self.searched, family.scales)

    def rates(self, family: Family) -> list[dict[str, Any]]:
        """First settings of the search: each rate, at the middle value of `searched`."""
        middle = self.settings(self.values(family)[1])
        return [{"optim.lr": rate, **middle} for rate in family.rates]

    def others(self, family: Family, rate: float) -> list[dict[str, Any]]:
        """Second settings of the search: the two other values of `searched`, at the best rate."""
        low, _, high = self.values(family)
        return [{"optim.lr": rate, **self.settings(value)} for value in (low, high)]

    def settings(self, value: float) -> dict[str, Any]:
        """Settings of a run with a value of `searched`."""
        own = {} if self.searched == SCALE else {self.searched: value}
        settings: dict[str, Any] = {"loss.path": self.loss, "loss.args": {**self.args, **own}}
        settings |= {"loss.scale": value} if self.searched == SCALE else {}
        return settings | ({"loss.labels": True} if self.role == "reference" else {})


def read_contestants(folders: Iterable[Path] = (), only: Sequence[str] = ()) -> list[Contestant]:
    """Contestants by name.

    Args:
        folders: with files of one's own, next to those of the arena.
        only: names; empty: all.

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
        if len(contestant.search) > 1 or any(len(v) != 3 for v in contestant.search.values()):
            raise UserError(f"{path}: search names one setting with three values, as all others do")
        contestant.name = path.stem
        read[path.stem] = contestant
    for name in only:
        if name not in read:
            raise UserError(f"no contestant '{name}'{nearest(name, read)}")
    return [contestant for name, contestant in read.items() if not only or name in only]


@dataclass(frozen=True)
class Trial:
    """A run of the study."""

    family: str
    scale: str
    contestant: str
    words: tuple[str, ...]  # settings, as typed
    run_id: str
    path: Path
    seed: int

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""
        return (self.path / "metrics.json").is_file()

    def metrics(self) -> dict[str, float]:
        """Its metrics."""
        return ws.read_json(self.path / "metrics.json")  # type: ignore[no-any-return]

    def meta(self) -> dict[str, Any]:
        """Its record."""
        return ws.read_json(self.path / "meta.json")  # type: ignore[no-any-return]

    def items(self, metric: str) -> list[Any] | None:
        """Its items, see `saved_items`."""
        return saved_items(self.path, metric)


def trial(
    family: str, scale: str, contestant: str, settings: Mapping[str, Any], overrides: Sequence[str]
) -> Trial:
    """A run by its settings; its name holds their digest and the code."""
    project = f"arena_{family}"
    words = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in settings.items())]
    cfg = load(config_class(project), project, scale, words)
    digest = hashlib.sha256(to_yaml(cfg).encode()).hexdigest()[:8]
    run_id = f"{contestant}-{digest}-{present_code()}"
    path = ws.run_folder(cfg, project, scale) / run_id
    return Trial(family, scale, contestant, tuple(words), run_id, path, cfg.seed)


def run(trials: Sequence[Trial], jobs: int, title: str) -> None:
    """Make the missing runs, in processes of one thread each if there are several."""
    from common.engine.progress import track

    missing = [one for one in trials if not one.done]
    if jobs == 1:
        for one in track(missing, title):
            _make(one)
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for _ in track(pool.imap_unordered(_make, missing), title, len(missing)):
            pass


def _make(one: Trial) -> None:
    from common.engine.run import train

    begun = (one.path / "meta.json").is_file()
    words = [*one.words, f"run_id={one.run_id}", *([f"resume={one.run_id}"] if begun else [])]
    train(f"arena_{one.family}", one.scale, words)


# -- the study ----------------------------------------------------------------------------------


def has_development_part(family: str, scale: str, overrides: Sequence[str]) -> bool:
    """Whether the search can read other images than those of the test."""
    cfg: Any = load(config_class(f"arena_{family}"), f"arena_{family}", scale, overrides)
    return family != "images" or bool(cfg.data.source == "bundled")


Tried = dict[str, list[tuple[dict[str, Any], Trial]]]  # contestant -> settings with their runs


def search(
    family: str,
    scale: str,
    contestants: Sequence[Contestant],
    overrides: Sequence[str],
    jobs: int,
) -> tuple[Tried, str]:
    """Five runs each on the development part: three rates, then two other values of a setting.

    Controls have none, they take the settings of what they copy.

    Returns:
        Settings with their runs, and the metric that chooses among them.
    """
    about = FAMILIES[family]
    shared: dict[str, Any] = {"seed": SEARCH_SEED}
    chosen_by = about.held_out
    if has_development_part(family, scale, overrides):
        shared |= about.development
        chosen_by = about.metric
    searched = [one for one in contestants if one.role != "control"]
    tried: Tried = {one.name: [] for one in searched}

    def add(stage: str, settings_of: Callable[[Contestant], list[dict[str, Any]]]) -> None:
        added = {
            one.name: [
                (settings, trial(family, scale, one.name, {**settings, **shared}, overrides))
                for settings in settings_of(one)
            ]
            for one in searched
        }
        run([made for pairs in added.values() for _, made in pairs], jobs, f"search, {stage}")
        for name, pairs in added.items():
            tried[name] += pairs

    add("rates", lambda one: one.rates(about))
    best = {name: best_of(pairs, chosen_by)["optim.lr"] for name, pairs in tried.items()}
    add("settings", lambda one: one.others(about, best[one.name]))
    return tried, chosen_by


def best_of(pairs: Sequence[tuple[dict[str, Any], Trial]], metric: str) -> dict[str, Any]:
    """Settings of the run with the highest value."""
    return max(pairs, key=lambda pair: pair[1].metrics()[metric])[0]


def study(
    family: str,
    scale: str = "mini",
    *,
    jobs: int = 1,
    only: Sequence[str] = (),
    folders: Sequence[Path] = (),
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Search, final runs and statistics.

    Args:
        family: see `FAMILIES`.
        scale: config of ``arena_<family>``.
        jobs: runs at the same time.
        only: contestants; empty: all, which is what is published.
        folders: contestants of one's own.
        overrides: of every run.

    Raises:
        UserError: an unknown family or contestant, or a run that fails.
    """
    if family not in FAMILIES:
        raise UserError(f"no arena of '{family}'{nearest(family, FAMILIES)}")
    about = FAMILIES[family]
    metric = about.metric
    contestants = [
        one
        for one in read_contestants(folders, only)
        if about.batch_labels or one.role != "reference"
    ]
    tried, chosen_by = search(family, scale, contestants, overrides, jobs)
    best = {name: best_of(pairs, chosen_by) for name, pairs in tried.items()}
    controls = [one for one in contestants if one.role == "control" and COPIED in best]
    for one in controls:
        copied = best[COPIED]
        best[one.name] = {**copied, "loss.path": one.loss, "loss.args": one.args}
    finals = {
        name: [
            trial(family, scale, name, {**settings, "seed": seed}, overrides)
            for seed in (COPY_SEEDS if name == COPY else SEEDS)
        ]
        for name, settings in best.items()
    }
    run([one for trials in finals.values() for one in trials], jobs, "fresh seeds")
    items = {name: _scores(trials, metric) for name, trials in finals.items()}
    by_name = {one.name: one for one in contestants}
    rows = {
        name: {
            **_row(by_name[name], best[name], trials, (metric, *about.also)),
            "search": [
                {
                    "rate": settings["optim.lr"],
                    "setting": _setting(by_name[name], settings),
                    "score": made.metrics()[chosen_by],
                }
                for settings, made in tried.get(name, [])
            ],
        }
        for name, trials in finals.items()
    }
    published = [(name, other) for name in items for other in by_name[name].above]
    first = next(iter(finals.values()))[0]
    meta = first.meta()
    return {
        "family": family,
        "scale": scale,
        "metric": metric,
        "also": list(about.also),
        "measured": {
            "version": __version__,
            "commit": meta["commit"],
            "clean": bool(meta["commit"]) and not meta["dirty"],
            "lock": lock_hash(),
            "processor": meta["hardware"]["cpu"],
            "date": datetime.date.today().isoformat(),
            "steps": meta.get("num_steps"),
            "seeds": list(SEEDS),
            "search_seed": SEARCH_SEED,
        },
        "baselines": baselines(family, scale, overrides),
        "contestants": rows,
        "standings": [vars(one) for one in standings(items)],
        "published_order": [
            vars(one) for one in differences(items, [p for p in published if p[1] in items])
        ],
        "items": items,
    }


def _scores(trials: Sequence[Trial], metric: str) -> list[Scores]:
    """Scores of a contestant's seeds by item, on each test set.

    Raises:
        UserError: the seeds were judged on different items.
    """
    scores = values_of(trials, [metric]).scores(metric)
    if scores is None:
        raise UserError(f"{trials[0].contestant}: its runs have no items of {metric} in common")
    return scores


def baselines(family: str, scale: str, overrides: Sequence[str]) -> dict[str, float]:
    """The ranked metric without training, means over the fresh seeds."""
    project = f"arena_{family}"
    module = importlib.import_module(f"arena.{family}.baselines")
    values: dict[str, list[float]] = {name: [] for name in BASELINES[family]}
    for seed in SEEDS:
        cfg = load(config_class(project), project, scale, [*overrides, f"seed={seed}"])
        for name, of_seed in values.items():
            with tempfile.TemporaryDirectory() as folder:
                workspace = ws.Workspace(Path(folder), project, scale)
                of_seed.append(getattr(module, name)(cfg, workspace)[FAMILIES[family].metric])
    return {name: float(np.mean(of_seed)) for name, of_seed in values.items()}


def _row(
    contestant: Contestant,
    settings: Mapping[str, Any],
    trials: Sequence[Trial],
    names: Sequence[str],
) -> dict[str, Any]:
    """What the page shows of a contestant's fresh seeds."""
    measured = [one.metrics() for one in trials]
    return {
        "role": contestant.role,
        "source": contestant.source,
        "rate": settings["optim.lr"],
        "setting": {contestant.searched: _setting(contestant, settings)},
        "metrics": {
            name: {
                "mean": float(np.mean([m[name] for m in measured])),
                "std": float(np.std([m[name] for m in measured], ddof=1)),
                "values": [m[name] for m in measured],
            }
            for name in names
            if all(m.get(name) is not None for m in measured)
        },
        "mechanisms": _mechanisms(trials),
    }


def _setting(contestant: Contestant, settings: Mapping[str, Any]) -> float | None:
    """Value of what is searched; controls of another loss have none."""
    if contestant.searched == SCALE:
        return settings.get("loss.scale")
    return settings["loss.args"].get(contestant.searched)  # type: ignore[no-any-return]


def _mechanisms(trials: Sequence[Trial]) -> dict[str, list[tuple[int, float]]]:
    """Name -> steps with the mean over the seeds."""
    curves = [read_metrics(one.path / "metrics.csv") for one in trials]
    means: dict[str, list[tuple[int, float]]] = {}
    for name in MECHANISMS:
        of_seeds = [dict(curve.get(f"train/train/{name}", [])) for curve in curves]
        steps = sorted(set.intersection(*map(set, of_seeds)))
        means[name] = [(step, float(np.mean([one[step] for one in of_seeds]))) for step in steps]
    return means


def publish(result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write the summary and the items, by which the standings can be computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {key: value for key, value in result.items() if key != "items"}
    path = folder / f"{result['family']}.json"
    ws.write_json(path, summary)
    packed = {
        name: [
            {"values": one.values.tolist()}
            | ({} if one.gold is None else {"gold": one.gold.tolist()})
            for one in sets
        ]
        for name, sets in result["items"].items()
    }
    content = gzip.compress(json.dumps(packed, separators=(",", ":")).encode(), mtime=0)
    write_bytes(path.with_suffix(".items.json.gz"), content)
    return path
