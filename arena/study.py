"""The study of a family: the same search for every contestant, then fresh seeds, then statistics.

Runs are ordinary runs of ``arena_<family>``; a finished one is not repeated, an interrupted one
goes on where it was.
"""

import datetime
import gzip
import hashlib
import importlib
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arena.contestant import FAMILIES, Contestant, read_contestants
from arena.mechanisms import MECHANISMS
from arena.statistics import differences, standings
from common import __version__
from common.config import ROOT, UserError, load, nearest, to_dict, to_yaml
from common.engine import workspace as ws
from common.engine.comparison.results import for_readers
from common.engine.comparison.runs import present_code, saved_items
from common.engine.comparison.values import values_of
from common.engine.provenance import lock_hash
from common.engine.tracking import read_metrics
from common.evaluation.resampling import Scores
from common.files import write_bytes, write_text
from common.registry import config_class

RESULTS = ROOT / "results/arena"
SEARCH_SEED, SEEDS = 100, (11, 12, 13, 14)
COPY, BROKEN, COPIED = "nt_xent_again", "mismatched", "nt_xent"  # controls, and what they copy
COPY_SEEDS = (21, 22, 23, 24)
DIVERGED = "diverged.txt"  # of a run of the search whose loss was not finite: the reason
SHARED = ("data", "model", "optim", "trainer", "eval", "tracking")  # sections that all have alike


@dataclass(frozen=True)
class Trial:
    """A run of the study."""

    project: str
    config: str
    contestant: str
    words: tuple[str, ...]  # settings, as typed
    run_id: str
    path: Path
    seed: int

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""
        return (self.path / "metrics.json").is_file()

    @property
    def diverged(self) -> bool:
        """Whether its loss was not finite, which ended it."""
        return (self.path / DIVERGED).is_file()

    def metrics(self) -> dict[str, float]:
        """Its metrics."""
        return ws.read_json(self.path / "metrics.json")  # type: ignore[no-any-return]

    def score(self, metric: str) -> float:
        """One of its metrics; that of a run that diverged is below all others."""
        return -math.inf if self.diverged else self.metrics()[metric]

    def meta(self) -> dict[str, Any]:
        """Its record."""
        return ws.read_json(self.path / "meta.json")  # type: ignore[no-any-return]

    def items(self, metric: str) -> list[Any] | None:
        """Its items, see `saved_items`."""
        return saved_items(self.path, metric)


def trial(
    family: str,
    scale: str,
    contestant: Contestant,
    settings: Mapping[str, Any],
    overrides: Sequence[str],
) -> Trial:
    """A run by its settings; its name holds their digest and the code."""
    arena, project, config = f"arena_{family}", contestant.project, scale
    shared: dict[str, Any] = {}
    if project:
        config = {"base": "paper"}.get(scale, scale)
        shared = shared_settings(arena, scale, project, config)
    typed = [f"{key}={json.dumps(value)}" for key, value in {**shared, **settings}.items()]
    words = [*overrides, *typed]
    cfg = load(config_class(project or arena), project or arena, config, words)
    digest = hashlib.sha256(to_yaml(cfg).encode()).hexdigest()[:8]
    run_id = f"{'arena-' if project else ''}{contestant.name}-{digest}-{present_code()}"
    path = ws.run_folder(cfg, project or arena, config) / run_id
    return Trial(project or arena, config, contestant.name, tuple(words), run_id, path, cfg.seed)


def shared_settings(arena: str, scale: str, project: str, config: str) -> dict[str, Any]:
    """What a project's config has to take over from the arena's: each setting that differs."""
    base = to_dict(load(config_class(arena), arena, scale))
    own = to_dict(load(config_class(project), project, config))
    return {
        f"{section}.{key}": base[section][key]
        for section in SHARED
        for key in own[section]
        if key in base[section] and base[section][key] != own[section][key]
    }


def run(trials: Sequence[Trial], jobs: int, title: str) -> None:
    """Make the missing runs, in processes of one thread each if there are several."""
    from common.engine.progress import track

    missing = [one for one in trials if not one.done and not one.diverged]
    if jobs == 1:
        for one in track(missing, title):
            _make(one)
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for _ in track(pool.imap_unordered(_make, missing), title, len(missing)):
            pass


def _make(one: Trial) -> None:
    from common.engine.module import NonFiniteLossError
    from common.engine.run import train

    begun = (one.path / "meta.json").is_file()
    words = [*one.words, f"run_id={one.run_id}", *([f"resume={one.run_id}"] if begun else [])]
    try:
        train(one.project, one.config, words)
    except NonFiniteLossError as error:
        if one.seed != SEARCH_SEED:
            raise
        write_text(one.path / DIVERGED, f"{error}\n")


# -- the study ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """A run of the search."""

    rate: float
    value: float  # of the contestant's own setting
    run: Trial


Tried = dict[str, list[Attempt]]  # by contestant, in the order of the search


def search(
    family: str,
    scale: str,
    contestants: Sequence[Contestant],
    overrides: Sequence[str],
    jobs: int,
) -> Tried:
    """Seven runs each on the development part.

    Three rates at the middle value of the contestant's setting, then a fourth one by `next_value`.
    At the best of these rates the two other values of the setting, then again one by `next_value`.
    Controls have none, they take the settings of what they copy.
    """
    about, judgement = FAMILIES[family], FAMILIES[family].judgement(scale)
    shared = {"seed": SEARCH_SEED, **judgement.development}
    searched = [one for one in contestants if one.role != "control"]
    tried: Tried = {one.name: [] for one in searched}

    def score(attempt: Attempt) -> float:
        return attempt.run.score(judgement.chosen_by)

    def add(title: str, pairs_of: Callable[[Contestant], list[tuple[float, float]]]) -> None:
        added = {
            one.name: [
                Attempt(*pair, trial(family, scale, one, {**one.at(*pair), **shared}, overrides))
                for pair in pairs_of(one)
            ]
            for one in searched
        }
        run([one.run for attempts in added.values() for one in attempts], jobs, f"search, {title}")
        for name, attempts in added.items():
            tried[name] += attempts

    def further_rate(one: Contestant) -> list[tuple[float, float]]:
        rate = next_value({made.rate: score(made) for made in tried[one.name]})
        return [(rate, one.values(about)[1])]

    def other_values(one: Contestant) -> list[tuple[float, float]]:
        rate = max(tried[one.name], key=score).rate
        return [(rate, value) for value in (one.values(about)[0], one.values(about)[2])]

    def further_value(one: Contestant) -> list[tuple[float, float]]:
        rate = tried[one.name][-1].rate
        scores = {made.value: score(made) for made in tried[one.name] if made.rate == rate}
        return [(rate, next_value(scores))]

    add("rates", lambda one: [(rate, one.values(about)[1]) for rate in about.rates])
    add("one more rate", further_rate)
    add("settings", other_values)
    add("one more setting", further_value)
    return tried


def next_value(scores: Mapping[float, float]) -> float:
    """Where a search goes on.

    A best value at an end: the same factor beyond it as between it and its neighbour. Otherwise the
    geometric mean of the best value and its better neighbour.

    >>> next_value({1: 0.1, 2: 0.2, 5: 0.3}), next_value({1: 0.2, 4: 0.3, 16: 0.1})
    (12.5, 2.0)
    """
    values = sorted(scores)
    best = max(values, key=lambda value: scores[value])
    place = values.index(best)
    if 0 < place < len(values) - 1:
        other = max(values[place - 1], values[place + 1], key=lambda value: scores[value])
        return _three_digits((best * other) ** 0.5)
    inner = values[1] if place == 0 else values[-2]
    return _three_digits(best * best / inner)


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")


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
        only: contestants; empty: all.
        folders: contestants of one's own.
        overrides: of every run.

    Raises:
        UserError: an unknown family or contestant, or a run that fails.
    """
    if family not in FAMILIES:
        raise UserError(f"no arena of '{family}'{nearest(family, FAMILIES)}")
    judgement = FAMILIES[family].judgement(scale)
    metric = judgement.metric
    contestants = read_contestants(folders, only, family)
    by_name = {one.name: one for one in contestants}
    tried = search(family, scale, contestants, overrides, jobs)
    best = {
        name: max(attempts, key=lambda one: one.run.score(judgement.chosen_by))
        for name, attempts in tried.items()
    }
    if COPIED in best:
        best |= {one.name: best[COPIED] for one in contestants if one.role == "control"}
    finals = {
        name: [
            trial(
                family,
                scale,
                by_name[name],
                {**by_name[name].at(chosen.rate, chosen.value), "seed": seed},
                overrides,
            )
            for seed in (COPY_SEEDS if name == COPY else SEEDS)
        ]
        for name, chosen in best.items()
    }
    run([one for trials in finals.values() for one in trials], jobs, "fresh seeds")
    items = {name: _scores(trials, metric) for name, trials in finals.items()}
    rows = {
        name: {
            **_row(by_name[name], best[name], trials, (metric, *judgement.also)),
            "search": [
                {
                    "rate": one.rate,
                    "setting": one.value,
                    "score": None if one.run.diverged else one.run.score(judgement.chosen_by),
                }
                for one in tried.get(name, [])
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
        "also": list(judgement.also),
        "left_out": sorted({one.name for one in read_contestants(family=family)} - by_name.keys()),
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
    project, judgement = f"arena_{family}", FAMILIES[family].judgement(scale)
    module = importlib.import_module(f"arena.{family}.baselines")
    values: dict[str, list[float]] = {name: [] for name in judgement.baselines}
    for seed in SEEDS:
        cfg = load(config_class(project), project, scale, [*overrides, f"seed={seed}"])
        for name, of_seed in values.items():
            with tempfile.TemporaryDirectory() as folder:
                workspace = ws.Workspace(Path(folder), project, scale)
                of_seed.append(getattr(module, name)(cfg, workspace)[judgement.metric])
    return {name: float(np.mean(of_seed)) for name, of_seed in values.items()}


def _row(
    contestant: Contestant,
    chosen: Attempt,
    trials: Sequence[Trial],
    names: Sequence[str],
) -> dict[str, Any]:
    """What the page shows of a contestant's fresh seeds."""
    measured = [one.metrics() for one in trials]
    return {
        "role": contestant.role,
        "source": contestant.source,
        "rate": chosen.rate,
        "setting": {contestant.searched: chosen.value},
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


def _mechanisms(trials: Sequence[Trial]) -> dict[str, list[tuple[int, float]]]:
    """Name -> steps with the mean over the seeds."""
    curves = [read_metrics(one.path / "metrics.csv") for one in trials]
    means: dict[str, list[tuple[int, float]]] = {}
    for name in MECHANISMS:
        of_seeds = [dict(curve.get(f"train/train/{name}", [])) for curve in curves]
        steps = sorted(set.intersection(*map(set, of_seeds)))
        means[name] = [(step, float(np.mean([one[step] for one in of_seeds]))) for step in steps]
    return means


def result_path(family: str, scale: str, folder: Path = RESULTS) -> Path:
    """File of a published study."""
    return folder / f"{family}{'' if scale == 'mini' else f'-{scale}'}.json"


def publish(result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write the summary and the items, by which the standings can be computed again."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {key: value for key, value in result.items() if key != "items"}
    path = result_path(result["family"], result["scale"], folder)
    write_text(path, for_readers(summary))
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
