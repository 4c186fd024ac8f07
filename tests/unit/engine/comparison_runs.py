"""Finished runs with given values, for tests of verdicts, plans and results."""

import json

from common.engine.comparison.results import summarise
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
PROJECT = "dcl"  # whose claims and design the results are of


class FakeRun(PlannedRun):
    """A finished run; metrics are ``score``, those of the test, and two constants."""

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


def claim_entry(text, **options):
    """``a > b`` as compare.yaml has it."""
    left, right = text.split(" > ")
    return {"left": left, "right": right, **options}


def spec_of(arms, claims, **options):
    """A comparison of dcl whose claims are entries, or texts like ``a > b``."""
    appendix = options.pop("appendix", [])
    entries = [
        [claim_entry(claim) if isinstance(claim, str) else claim for claim in part]
        for part in (claims, appendix)
    ]
    return Comparison(
        metric=options.pop("metric", "score"),
        arms={arm: {} for arm in arms},
        claims=entries[0],
        appendix=entries[1],
        project=PROJECT,
        **{"name": "main", **options},
    )


def runs_of(folder, values, items=None, baselines=None, metrics=None):
    """Finished runs of arms with these values, one per seed, and of baselines."""
    items, metrics = items or {}, metrics or {}
    runs = [
        FakeRun(folder, arm, seed, value, items.get(arm), **metrics.get(arm, {}))
        for arm, column in values.items()
        for seed, value in enumerate(column)
    ]
    return runs + [
        FakeRun(folder, name, 0, value, items.get(name), baseline=True)
        for name, value in (baselines or {}).items()
    ]


def result_of(folder, values, claims, *, items=None, baselines=None, metrics=None, **options):
    """Result of a comparison whose arms have these values, one per seed.

    `items` and `metrics`: per arm the content of items/*.json and further metrics, of every seed.
    """
    spec = spec_of(values, claims, baselines=list(baselines or {}), **options)
    return summarise(spec, list(values), runs_of(folder, values, items, baselines, metrics))


def claim_of(folder, values, claim, **options):
    """The only claim of such a result."""
    (judged,) = result_of(folder, values, [claim], **options)["claims"]
    return judged
