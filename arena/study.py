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
from common.engine.comparison.runs import present_code, saved_items
from common.engine.comparison.values import values_of
from common.engine.provenance import lock_hash
from common.engine.tracking import read_metrics
from common.evaluation.resampling import Scores
from common.files import write_bytes
from common.registry import config_class

RESULTS = ROOT / "results/arena"
SEARCH_SEED, SEEDS = 100, (11, 12, 13, 14)
COPY, BROKEN, COPIED = "nt_xent_again", "mismatched", "nt_xent"  # controls, and what they copy
COPY_SEEDS = (21, 22, 23, 24)
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
    train(one.project, one.config, words)


# -- the study ----------------------------------------------------------------------------------


Tried = dict[str, list[tuple[dict[str, Any], Trial]]]  # contestant -> settings with their runs


def search(
    family: str,
    scale: str,
    contestants: Sequence[Contestant],
    overrides: Sequence[str],
    jobs: int,
) -> Tried:
    """Five runs each on the development part: three rates, then two other values of a setting.

    Controls have none, they take the settings of what they copy.
    """
    about, judgement = FAMILIES[family], FAMILIES[family].judgement(scale)
    shared = {"seed": SEARCH_SEED, **judgement.development}
    searched = [one for one in contestants if one.role != "control"]
    tried: Tried = {one.name: [] for one in searched}

    def add(stage: str, settings_of: Callable[[Contestant], list[dict[str, Any]]]) -> None:
        added = {
            one.name: [
                (settings, trial(family, scale, one, {**settings, **shared}, overrides))
                for settings in settings_of(one)
            ]
            for one in searched
        }
        run([made for pairs in added.values() for _, made in pairs], jobs, f"search, {stage}")
        for name, pairs in added.items():
            tried[name] += pairs

    add("rates", lambda one: one.rates(about))
    chosen = {name: best_of(pairs, judgement.chosen_by) for name, pairs in tried.items()}
    add("settings", lambda one: one.others(about, chosen[one.name]["optim.lr"]))
    return tried


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
    judgement = FAMILIES[family].judgement(scale)
    metric = judgement.metric
    contestants = read_contestants(folders, only, family)
    by_name = {one.name: one for one in contestants}
    tried = search(family, scale, contestants, overrides, jobs)
    best = {name: best_of(pairs, judgement.chosen_by) for name, pairs in tried.items()}
    for one in contestants:
        if one.role == "control" and COPIED in best:
            best[one.name] = {**best[COPIED], "loss.path": one.loss, "loss.args": one.args}
    finals = {
        name: [
            trial(family, scale, by_name[name], {**settings, "seed": seed}, overrides)
            for seed in (COPY_SEEDS if name == COPY else SEEDS)
        ]
        for name, settings in best.items()
    }
    run([one for trials in finals.values() for one in trials], jobs, "fresh seeds")
    items = {name: _scores(trials, metric) for name, trials in finals.items()}
    rows = {
        name: {
            **_row(by_name[name], best[name], trials, (metric, *judgement.also)),
            "search": [
                {
                    "rate": settings["optim.lr"],
                    "setting": by_name[name].value_in(settings),
                    "score": made.metrics()[judgement.chosen_by],
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
        "also": list(judgement.also),
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
        "setting": {contestant.searched: contestant.value_in(settings)},
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
