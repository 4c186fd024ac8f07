"""Finished runs with given values, for tests of verdicts, plans and results."""

import json

from common.engine.comparison.judge import summarise
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schema import Comparison

META = {
    "num_steps": 5,
    "parameters": 10,
    "wall_seconds": 60.0,
    "commit": "a" * 40,
    "dirty": False,
    "hardware": {"cpu": "test", "cores": 2, "gpu": None},
    "versions": {},
    "seed": 0,
    "global_batch_size": 4,
    "samples_per_second": 3.0,
}
PROJECT = "dcl"  # whose code and design the results are stamped with


class FakeRun(PlannedRun):
    """A finished run; metrics are ``score``, what is given, and two constants."""

    def __init__(self, folder, arm, seed, value, items=None, baseline=False, **metrics):
        self.arm, self.seed, self.is_baseline = arm, seed, baseline
        self.run_id = self.config_hash = "c0ffee00"
        self.path = folder / f"{arm}-{seed}"
        (self.path / "items").mkdir(parents=True)
        content = {"score": value, "score_chance": 0.1, "other": 1.0, **metrics}
        (self.path / "metrics.json").write_text(json.dumps(content))
        (self.path / "meta.json").write_text(json.dumps(META))
        for name, values in (items or {}).items():
            (self.path / "items" / f"{name}.json").write_text(json.dumps(values))

    def with_seed(self, seed):
        return self


def result_of(folder, values, claims, *, items=None, baselines=None, metrics=None, **options):
    """Result of a comparison whose arms have these values, one per seed.

    `items` and `metrics`: per arm the content of items/*.json and further metrics, of every seed.
    """
    items, baselines, metrics = items or {}, baselines or {}, metrics or {}
    spec = Comparison(
        metric="score",
        arms={arm: {} for arm in values},
        claims=claims,
        baselines=list(baselines),
        **options,
    )
    plan = [
        FakeRun(folder, arm, seed, value, items.get(arm), **metrics.get(arm, {}))
        for arm, own in values.items()
        for seed, value in enumerate(own)
    ]
    plan += [
        FakeRun(folder, name, 0, value, items.get(name), baseline=True)
        for name, value in baselines.items()
    ]
    return summarise(PROJECT, spec, list(values), plan)


def claim_of(folder, values, claim, **options):
    """The only claim of such a result."""
    claims = [claim if isinstance(claim, str) else {"claim": claim["claim"], **claim}]
    (found,) = result_of(folder, values, claims, **options)["claims"]
    return found
