"""`make compare`: every arm with every seed at equal budget, the verdict computed and published.

``configs/<slug>/compare.yaml`` names base config, metric, arms (name -> overrides) and the claims.
Each run is a process of its own, so that nothing leaks between arms; finished runs are reused when
config and code are the same, interrupted ones are resumed.
"""

import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.config import CONFIG_DIR, ROOT, UserError, load, nearest, to_yaml
from common.engine import workspace as ws
from common.engine.progress import track
from common.engine.results import publish
from common.evaluation.statistics import (
    Interval,
    paired_bootstrap,
    paired_bootstrap_metric,
    verdict,
)
from common.evaluation.text.sts import spearman
from common.registry import config_class


@dataclass
class Comparison:
    """Schema of compare.yaml."""

    base: str = "mini"  # config that all arms start from
    metric: str = "???"  # primary metric, a key of metrics.json
    direction: Literal["max", "min"] = "max"  # which direction is better
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> dotted overrides
    shared: dict[str, Any] = field(default_factory=dict)  # overrides of every arm
    # "method > baseline", chains allowed; with "(metric)" or "(metric, margin 0.01)" at the end judged
    # by another metric or with another margin than the comparison's
    claims: list[str] = field(default_factory=list)
    default_arms: list[str] = field(default_factory=list)  # empty: all
    also: list[str] = field(default_factory=list)  # further metrics shown in the table
    margin: float = 0.0  # the difference must exceed minus this much
    note: str = ""  # printed under the table


def read_comparison(project: str) -> Comparison:
    """The project's compare.yaml.

    Raises:
        UserError: the file is missing or does not fit the schema.
    """
    path = CONFIG_DIR / project / "compare.yaml"
    if not path.is_file():
        raise UserError(f"project '{project}' has no compare.yaml")
    try:
        node = OmegaConf.merge(OmegaConf.structured(Comparison), OmegaConf.load(path))
        spec: Comparison = OmegaConf.to_object(node)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(f"configs/{project}/compare.yaml: {error}") from error
    spec.arms = {arm: {**spec.shared, **own} for arm, own in spec.arms.items()}
    for claim in spec.claims:
        for left, right in pairs(claim):
            for arm in (left, right):
                if arm not in spec.arms:
                    raise UserError(f"claim '{claim}': no arm '{arm}'{nearest(arm, spec.arms)}")
    return spec


_OWN = re.compile(r"\((\w+)(?:, margin ([0-9.]+))?\)\s*$")


def own_metric(claim: str) -> tuple[str | None, float | None]:
    """Metric and margin that a claim names for itself.

    >>> own_metric("a > b (recall, margin 0.01)"), own_metric("a > b")
    (('recall', 0.01), (None, None))
    """
    found = _OWN.search(claim)
    if found is None:
        return None, None
    return found[1], None if found[2] is None else float(found[2])


def pairs(claim: str) -> list[tuple[str, str]]:
    """Neighbouring arms of a claim.

    >>> pairs("a > b > c"), pairs("a > b (recall)")
    ([('a', 'b'), ('b', 'c')], [('a', 'b')])
    """
    arms = [arm.strip() for arm in _OWN.sub("", claim).split(">")]
    if len(arms) < 2 or not all(arms):
        raise UserError(f"claim '{claim}' is not of the form 'arm > arm'")
    return list(pairwise(arms))


def compare(
    project: str,
    overrides: Sequence[str] = (),
    num_seeds: int = 3,
    jobs: int = 1,
    arms: Sequence[str] = (),
) -> dict[str, Any]:
    """Run what is missing, compute the verdicts, write results/<slug>.json, card and plot.

    Args:
        project: slug.
        overrides: applied to every arm alike.
        num_seeds: seeds 0 .. num_seeds - 1.
        jobs: runs at the same time; the cores are divided between them.
        arms: names, or ["full"] for all; empty for the default arms.

    Returns:
        The content of the result file.

    Raises:
        UserError: unknown arm or metric, or a run failed (its log is named).
    """
    spec = read_comparison(project)
    chosen = _choose_arms(spec, arms)
    stamp = code_hash(project)
    plan = [
        _Run(project, spec, arm, seed, overrides, stamp)
        for seed in range(num_seeds)
        for arm in chosen
    ]
    _run_all(plan, jobs)
    result = summarise(project, spec, chosen, plan, overrides)
    if not overrides and not arms:
        publish(project, result)
    return result


class _Run:
    """One arm with one seed."""

    def __init__(
        self,
        project: str,
        spec: Comparison,
        arm: str,
        seed: int,
        overrides: Sequence[str],
        stamp: str,
    ) -> None:
        self.project, self.base, self.arm, self.seed = project, spec.base, arm, seed
        own = [f"{key}={json.dumps(value)}" for key, value in spec.arms[arm].items()]
        self.overrides = [*overrides, *own, f"seed={seed}"]
        cfg = load(config_class(project), project, spec.base, self.overrides)
        self.config_hash = hashlib.sha256(to_yaml(cfg).encode()).hexdigest()[:8]
        self.run_id = f"compare-{arm}-seed{seed}-{self.config_hash}-{stamp}"
        self.path = ws.run_folder(cfg, project, spec.base) / self.run_id
        self.quiet = cfg.tracking.wandb == "auto"

    @property
    def done(self) -> bool:
        return (self.path / "metrics.json").exists()

    def start(self, threads: int) -> tuple[subprocess.Popen[bytes], Any]:
        """Start the process; its output goes to log.txt of the run."""
        words = [sys.executable, "-m", "common.cli", "train", self.project, self.base]
        words += [*self.overrides, f"run_id={self.run_id}"]
        words += ["tracking.wandb=disabled"] if self.quiet else []
        if (self.path / "meta.json").exists():
            words.append(f"resume={self.run_id}")
        self.path.mkdir(parents=True, exist_ok=True)
        log = (self.path / "log.txt").open("ab")
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=ROOT)
        return process, log

    def metrics(self) -> dict[str, float]:
        return ws.read_json(self.path / "metrics.json")  # type: ignore[no-any-return]

    def items(self, metric: str) -> Any:
        """Values per item, predictions with gold values (`Workspace.rank_items`), or None."""
        path = self.path / "items" / f"{metric}.json"
        return ws.read_json(path) if path.exists() else None


def code_hash(project: str) -> str:
    """Hash of the sources that a run of the project depends on."""
    digest = hashlib.sha256()
    for folder in (ROOT / "common", ROOT / "projects" / project):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _choose_arms(spec: Comparison, arms: Sequence[str]) -> list[str]:
    if list(arms) == ["full"]:
        return list(spec.arms)
    for arm in arms:
        if arm not in spec.arms:
            raise UserError(f"no arm '{arm}'{nearest(arm, spec.arms)}")
    return list(arms) or spec.default_arms or list(spec.arms)


def _run_all(plan: Sequence[_Run], jobs: int) -> None:
    threads = max(1, (os.cpu_count() or 1) // max(1, jobs))
    waiting = [run for run in plan if not run.done]
    running: list[tuple[_Run, subprocess.Popen[bytes], Any]] = []

    def finish_one() -> _Run:
        while True:
            for entry in running:
                run, process, log = entry
                if process.poll() is not None:
                    log.close()
                    running.remove(entry)
                    if process.returncode != 0:
                        for _, other, _ in running:
                            other.terminate()
                        raise UserError(f"{run.run_id} failed; see {run.path / 'log.txt'}")
                    return run
            time.sleep(0.2)

    def finished() -> Any:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                running.append((run, *run.start(threads)))
            yield finish_one()

    for _ in track(finished(), "compare: runs", len(waiting)):
        continue


def summarise(
    project: str,
    spec: Comparison,
    arms: Sequence[str],
    plan: Sequence[_Run],
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Values, means, paired differences and verdicts of finished runs."""
    runs = {arm: sorted((r for r in plan if r.arm == arm), key=lambda r: r.seed) for arm in arms}
    table = {}
    for arm, members in runs.items():
        metrics = [run.metrics() for run in members]
        if spec.metric not in metrics[0]:
            raise UserError(
                f"{project}: no metric '{spec.metric}'{nearest(spec.metric, metrics[0])}"
            )
        metas = [ws.read_json(run.path / "meta.json") for run in members]
        values = [m[spec.metric] for m in metrics]
        table[arm] = {
            "values": values,
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            "metrics": {k: [m.get(k) for m in metrics] for k in metrics[0]},
            "overrides": spec.arms[arm],
            "config_hash": members[0].config_hash,
            "num_steps": metas[0].get("num_steps"),
            "parameters": metas[0].get("parameters"),
            "wall_seconds": [m.get("wall_seconds") for m in metas],
        }
    claims = [
        _judge(spec, left, right, runs, *own_metric(claim))
        for claim in spec.claims
        for left, right in pairs(claim)
        if left in runs and right in runs
    ]
    meta = ws.read_json(plan[0].path / "meta.json")
    return {
        "project": project,
        "base": spec.base,
        "metric": spec.metric,
        "also": spec.also,
        "shared": spec.shared,
        "direction": spec.direction,
        "seeds": sorted({run.seed for run in plan}),
        "overrides": list(overrides),
        "arms": table,
        "claims": claims,
        "note": spec.note,
        "commit": meta["commit"],
        "dirty": meta["dirty"],
        "precision": meta.get("precision"),
        "hardware": meta["hardware"],
        "versions": meta["versions"],
        "date": datetime.date.today().isoformat(),
    }


def _judge(
    spec: Comparison,
    left: str,
    right: str,
    runs: Mapping[str, Sequence[_Run]],
    metric: str | None = None,
    margin: float | None = None,
) -> dict[str, Any]:
    sign = 1.0 if spec.direction == "max" else -1.0
    interval, unit = _interval(metric or spec.metric, runs[left], runs[right], sign)
    low, high = sorted((sign * interval.low, sign * interval.high))
    claim = f"{left} > {right}" if sign > 0 else f"{left} < {right}"
    own: dict[str, Any] = {} if metric is None else {"metric": metric}
    if metric is not None:
        claim += f" in {metric}"
    if margin is not None:
        claim, own = f"{claim} - {margin:g}", {**own, "margin": margin}
    return {
        "claim": claim,
        "difference": sign * interval.mean,
        "interval": [low, high],
        "resampled": unit,
        "verdict": verdict(interval, margin=spec.margin if margin is None else margin),
        **own,
    }


def _interval(
    metric: str, left: Sequence[_Run], right: Sequence[_Run], sign: float
) -> tuple[Interval, str]:
    """Bootstrap over seeds and test items where both arms saved them, else over seeds."""
    for run in (*left, *right):
        if metric not in run.metrics():
            raise UserError(f"{run.run_id}: no metric '{metric}'{nearest(metric, run.metrics())}")
    saved = [(a.items(metric), b.items(metric)) for a, b in zip(left, right, strict=True)]
    items = [x for pair in saved for x in pair]
    if all(isinstance(x, dict) for x in items) and all(
        x["gold"] == items[0]["gold"] for x in items
    ):
        method, baseline = ([run["predicted"] for run in arm] for arm in zip(*saved, strict=True))
        gold = sign * np.asarray(items[0]["gold"])
        interval = paired_bootstrap_metric(spearman, method, baseline, gold)
        return interval, "seeds x test items"
    if all(isinstance(x, list) for x in items) and len({len(x) for x in items}) == 1:
        rows, unit = np.array([np.subtract(a, b) for a, b in saved]), "seeds x test items"
    else:
        values = [
            a.metrics()[metric] - b.metrics()[metric] for a, b in zip(left, right, strict=True)
        ]
        rows, unit = np.array(values), "seeds"
    if rows.size < 2:
        raise UserError("one seed without per-item values gives no interval: use SEEDS=3")
    return paired_bootstrap(sign * rows), unit
