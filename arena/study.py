"""The study of a family: the same search for every contestant, then fresh seeds, then statistics.

Runs are ordinary runs of ``arena_<family>``; a finished one is not repeated, an interrupted one
goes on where it was.
"""

import datetime
import gzip
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from omegaconf import OmegaConf

from arena.statistics import Standing, standings
from common import __version__
from common.config import ROOT, UserError, load, nearest, to_yaml
from common.engine import workspace as ws
from common.engine.comparison.runs import present_code
from common.engine.provenance import lock_hash
from common.files import write_bytes
from common.registry import config_class

CONTESTANTS = ROOT / "arena/contestants"
RESULTS = ROOT / "results/arena"
METRIC = {"images": "linear_probe_top1"}  # what is ranked by, and searched by on development images
HELD_OUT = {"images": "linear_probe_validation_top1"}  # searched by where a set has none
ALSO = {"images": ("knn20_top1", "uniformity", "effective_rank")}
BASELINES = ("raw_pixels", "untrained", "chance")
RATES = (1e-3, 3e-3, 1e-2)  # learning rates of the search, for every contestant
SEARCH_SEED, SEEDS = 100, (11, 12, 13, 14)
COPY, BROKEN, COPIED = "nt_xent_again", "mismatched", "nt_xent"  # controls, and what they copy
COPY_SEEDS = (21, 22, 23, 24)

Role = Literal["contestant", "reference", "control"]


@dataclass
class Contestant:
    """A file of ``arena/contestants``."""

    loss: str = "???"  # module:class with forward(z_1, z_2, scale)
    args: dict[str, Any] = field(default_factory=dict)  # of its constructor
    search: dict[str, list[float]] = field(default_factory=dict)  # scale, or one of its arguments
    role: str = "contestant"  # reference: knows more than the others; control: of the study itself
    source: str = "???"  # paper and equation
    name: str = ""

    def settings(self, value: float) -> dict[str, Any]:
        """Settings of a run with a value of what is searched."""
        (searched,) = self.search
        args, scale = dict(self.args), 5.0
        if searched == "scale":
            scale = value
        else:
            args[searched] = value
        labels = self.role == "reference"
        return {"loss.path": self.loss, "loss.args": args, "loss.scale": scale} | (
            {"loss.labels": True} if labels else {}
        )


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
        if len(contestant.search) != 1 or len(*contestant.search.values()) != 3:
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

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""
        return (self.path / "metrics.json").is_file()

    def metrics(self) -> dict[str, float]:
        """Its metrics."""
        return ws.read_json(self.path / "metrics.json")  # type: ignore[no-any-return]


def trial(
    family: str, scale: str, contestant: str, settings: Mapping[str, Any], overrides: Sequence[str]
) -> Trial:
    """A run by its settings; its name holds their digest and the code."""
    project = f"arena_{family}"
    words = [*overrides, *(f"{key}={json.dumps(value)}" for key, value in settings.items())]
    cfg = load(config_class(project), project, scale, words)
    digest = hashlib.sha256(to_yaml(cfg).encode()).hexdigest()[:8]
    run_id = f"{contestant}-{digest}-{present_code()}"
    return Trial(
        family, scale, contestant, tuple(words), run_id, ws.run_folder(cfg, project, scale) / run_id
    )


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


def grid(contestant: Contestant) -> list[dict[str, Any]]:
    """Settings of the search: rates times values of the contestant's own setting."""
    (values,) = contestant.search.values()
    return [
        {"optim.lr": rate, **contestant.settings(value)}
        for rate, value in itertools.product(RATES, values)
    ]


def has_development_part(family: str, scale: str, overrides: Sequence[str]) -> bool:
    """Whether the search can read other images than those of the test."""
    cfg: Any = load(config_class(f"arena_{family}"), f"arena_{family}", scale, overrides)
    return bool(cfg.data.source == "bundled")


def search(
    family: str, scale: str, contestants: Sequence[Contestant], overrides: Sequence[str]
) -> dict[str, list[tuple[dict[str, Any], Trial]]]:
    """Contestant -> settings with their runs on development images; controls take those they copy."""
    shared: dict[str, Any] = {"seed": SEARCH_SEED}
    if has_development_part(family, scale, overrides):
        shared["eval.split"] = "dev"
    return {
        one.name: [
            (settings, trial(family, scale, one.name, {**settings, **shared}, overrides))
            for settings in grid(one)
        ]
        for one in contestants
        if one.role != "control"
    }


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
        family: see `METRIC`.
        scale: config of ``arena_<family>``.
        jobs: runs at the same time.
        only: contestants; empty: all, which is what is published.
        folders: contestants of one's own.
        overrides: of every run.

    Raises:
        UserError: an unknown family or contestant, or a run that fails.
    """
    if family not in METRIC:
        raise UserError(f"no arena of '{family}'{nearest(family, METRIC)}")
    metric = METRIC[family]
    contestants = read_contestants(folders, only)
    tried = search(family, scale, contestants, overrides)
    run([one for trials in tried.values() for _, one in trials], jobs, "search")
    chosen_by = metric if has_development_part(family, scale, overrides) else HELD_OUT[family]
    best = {
        name: max(trials, key=lambda pair: pair[1].metrics()[chosen_by])[0]
        for name, trials in tried.items()
    }
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
    items = {
        name: np.array([ws.read_json(one.path / "items" / f"{metric}.json") for one in trials])
        for name, trials in finals.items()
    }
    roles = {one.name: one for one in contestants}
    rows = {
        name: _row(
            roles[name],
            best[name],
            [one.metrics()[chosen_by] for _, one in tried.get(name, [])],
            trials,
            (metric, *ALSO[family]),
        )
        for name, trials in finals.items()
    }
    first = next(iter(finals.values()))[0]
    meta = ws.read_json(first.path / "meta.json")
    return {
        "family": family,
        "scale": scale,
        "metric": metric,
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
        "items": items,
    }


def baselines(family: str, scale: str, overrides: Sequence[str]) -> dict[str, float]:
    """The ranked metric without training, means over the fresh seeds."""
    project = f"arena_{family}"
    module = importlib.import_module(f"arena.{family}.baselines")
    values: dict[str, list[float]] = {name: [] for name in BASELINES}
    for seed in SEEDS:
        cfg = load(config_class(project), project, scale, [*overrides, f"seed={seed}"])
        for name, of_seed in values.items():
            with tempfile.TemporaryDirectory() as folder:
                workspace = ws.Workspace(Path(folder), project, scale)
                of_seed.append(getattr(module, name)(cfg, workspace)[METRIC[family]])
    return {name: float(np.mean(of_seed)) for name, of_seed in values.items()}


def _row(
    contestant: Contestant,
    settings: Mapping[str, Any],
    searched_scores: Sequence[float],
    trials: Sequence[Trial],
    names: Sequence[str],
) -> dict[str, Any]:
    """What the page shows of a contestant."""
    (searched,) = contestant.search
    value = settings["loss.scale"] if searched == "scale" else settings["loss.args"].get(searched)
    measured = [one.metrics() for one in trials]
    seconds = [ws.read_json(one.path / "meta.json").get("wall_seconds") for one in trials]
    return {
        "role": contestant.role,
        "source": contestant.source,
        "rate": settings["optim.lr"],
        "setting": {searched: value},
        "search": list(searched_scores),
        "metrics": {
            name: {
                "mean": float(np.mean([m[name] for m in measured])),
                "std": float(np.std([m[name] for m in measured], ddof=1)),
                "values": [m[name] for m in measured],
            }
            for name in names
            if all(m.get(name) is not None for m in measured)
        },
        "seconds": float(np.median([s for s in seconds if s is not None] or [np.nan])),
    }


def publish(result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write the summary and the items, by which the standings can be computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {key: value for key, value in result.items() if key != "items"}
    path = folder / f"{result['family']}.json"
    ws.write_json(path, summary)
    packed = {name: values.astype(int).tolist() for name, values in result["items"].items()}
    content = gzip.compress(json.dumps(packed, separators=(",", ":")).encode(), mtime=0)
    write_bytes(path.with_suffix(".items.json.gz"), content)
    return path


__all__ = ["Standing", "publish", "read_contestants", "study"]
