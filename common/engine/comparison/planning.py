"""`make compare PLAN=1`: runs, minutes, and the difference that seeds and items can resolve."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.config import ROOT
from common.engine import workspace as ws
from common.engine.comparison.expressions import evaluate
from common.engine.comparison.judge import comparable
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import Claim, claims_of
from common.evaluation.resampling import resample

# a two-sided 95 % interval excludes the threshold with a probability of 80 % at this many standard
# errors (1.96 + 0.84)
POWER_ERRORS = 2.80
ITEM_SAMPLES = 400


@dataclass(frozen=True)
class Resolution:
    """The smallest difference that a part of a claim can show.

    Attributes:
        claim: its text.
        difference: that is found with a probability of 80 %; None if nothing is known of its noise.
        source: what the noise was estimated from.
    """

    claim: str
    difference: float | None
    source: str


@dataclass(frozen=True)
class Plan:
    """What a comparison will take, and what it can show.

    Attributes:
        name: of the comparison, empty for the main one.
        num_runs: arms x seeds and baselines.
        num_missing: those that have not run.
        num_guessed: missing ones of arms that have never run, counted with the mean of the others.
        minutes: estimate for the missing ones; None if no run at hand says how long one takes.
        resolutions: per part of a claim.
    """

    name: str
    num_runs: int
    num_missing: int
    num_guessed: int
    minutes: float | None
    resolutions: tuple[Resolution, ...]

    def lines(self) -> list[str]:
        """The plan as text."""
        minutes = "unknown" if self.minutes is None else f"about {self.minutes:.0f}"
        minutes += (
            f" minutes ({self.num_guessed} of unknown length)" if self.num_guessed else " minutes"
        )
        title = f"{self.name}: " if self.name else ""
        found = [f"{title}{self.num_runs} runs, {self.num_missing} missing; {minutes}"]
        for one in self.resolutions:
            shown = "unknown" if one.difference is None else f"{one.difference:.4f}"
            found.append(f"  {one.claim}: resolves {shown} ({one.source})")
        return found


def make_plan(
    project: str, spec: Comparison, arms: Sequence[str], plan: Sequence[PlannedRun], jobs: int
) -> Plan:
    """Estimate a comparison from the runs and results at hand.

    Args:
        project: slug.
        spec: the comparison.
        arms: that would run.
        plan: their runs and those of the baselines.
        jobs: runs at the same time.
    """
    path = ROOT / "results" / f"{project}.json"
    result = ws.read_json(path) if path.exists() else {}
    published = {r.get("name", ""): r for r in (result, *result.get("more", []))}
    before = published.get(spec.name, {})
    at_hand = {name: _at_hand(plan, name) for name in (*arms, *spec.baselines)}
    missing = [run for run in plan if not run.done]
    seconds = [_seconds(run.arm, at_hand, before) for run in missing]
    known = [s for s in seconds if s is not None]
    total: float | None = 0.0 if not missing else None
    if known:
        total = float(np.mean(known)) * len(seconds) / 60 / max(1, jobs)
    num_seeds = len({run.seed for run in plan if not run.is_baseline})
    resolutions = [
        resolution
        for claim in claims_of(spec)
        if all(arm in at_hand for arm in claim.arms)
        for resolution in _resolutions(claim, at_hand, before, num_seeds)
    ]
    guessed = len(seconds) - len(known)
    return Plan(spec.name, len(plan), len(missing), guessed, total, tuple(resolutions))


def _at_hand(plan: Sequence[PlannedRun], name: str) -> list[PlannedRun]:
    """Finished runs of an arm with its present config, by any code, one for each seed.

    Beside those of the plan, runs with other seeds (pilots) are looked for in the run folder.
    """
    mine = [run for run in plan if run.arm == name]
    if not mine:
        return []
    one = mine[0]
    prefix = one.stem.rpartition("-seed")[0]
    found: dict[int, PlannedRun] = {}
    for path in sorted(
        one.folder.glob(f"{prefix}-seed*/metrics.json"), key=lambda p: p.stat().st_mtime
    ):
        match = re.fullmatch(rf"{re.escape(prefix)}-seed(\d+)-(\w+)-(\w+)", path.parent.name)
        if match is None:
            continue
        run = one.with_seed(int(match[1]))
        if run.config_hash == match[2]:
            run.path = path.parent
            found[run.seed] = run
    return [found[seed] for seed in sorted(found)]


def _seconds(
    name: str, at_hand: Mapping[str, Sequence[PlannedRun]], before: Mapping[str, Any]
) -> float | None:
    """Wall time of a run of an arm: of runs at hand, else of the published result."""
    measured = [run.meta().get("wall_seconds") for run in at_hand.get(name, [])]
    if not any(measured):
        entries = {
            **before.get("arms", {}),
            **before.get("appendix", {}).get("arms", {}),
            **before.get("baselines", {}),
        }
        measured = entries.get(name, {}).get("wall_seconds", [])
    known = [s for s in measured if s]
    return float(np.mean(known)) if known else None


def _resolutions(
    claim: Claim,
    at_hand: Mapping[str, Sequence[PlannedRun]],
    before: Mapping[str, Any],
    num_seeds: int,
) -> list[Resolution]:
    trained = [arm for arm in claim.arms if at_hand[arm] and not at_hand[arm][0].is_baseline]
    shared = (
        set.intersection(*({r.seed for r in at_hand[a]} for a in trained)) if trained else set()
    )
    if all(at_hand[arm] for arm in claim.arms) and (len(shared) > 1 or not trained):
        runs = {
            arm: [r for r in at_hand[arm] if r.is_baseline or r.seed in shared]
            for arm in claim.arms
        }
        return _from_runs(claim, runs, len(shared), num_seeds)
    return _from_result(claim, before, num_seeds)


def _from_runs(
    claim: Claim, runs: Mapping[str, Sequence[PlannedRun]], at_hand: int, num_seeds: int
) -> list[Resolution]:
    sets, _ = comparable(claim, runs)
    items = all(s.num_items > 1 for own in sets.values() for s in own)
    _, drawn = resample(sets, seeds=False, num_samples=ITEM_SAMPLES) if items else ({}, {})
    # one value per seed, not a mean over them: the metric as the runs report it
    per_seed = {
        arm: np.array([run.value(claim.metric) for run in own]) for arm, own in runs.items()
    }
    found = []
    for part in claim.parts:
        values = np.atleast_1d(evaluate(part.left, per_seed) - evaluate(part.right, per_seed))
        variance = float(np.var(values, ddof=1)) / num_seeds if len(values) > 1 else 0.0
        source = f"noise of {at_hand} seeds at hand, {num_seeds} planned"
        if items:
            variance += float(np.var(evaluate(part.left, drawn) - evaluate(part.right, drawn)))
        else:
            source += ", no items"
        text = claim.text if len(claim.parts) == 1 else " against ".join(part.text)
        found.append(Resolution(text, POWER_ERRORS * float(np.sqrt(variance)), source))
    return found


def _from_result(claim: Claim, before: Mapping[str, Any], num_seeds: int) -> list[Resolution]:
    """From a published interval: what its seeds don't explain is the items'."""
    noise = noise_of(claim, before)
    if noise is None:
        return [Resolution(claim.text, None, "no runs at hand; try pilots, such as SEEDS=100,101")]
    variance = noise.seeds / num_seeds + noise.items
    old = len(before["seeds"])
    source = f"noise of the result of {before['date']}, {old} seeds; {num_seeds} planned"
    return [Resolution(claim.text, POWER_ERRORS * float(np.sqrt(variance)), source)]


@dataclass(frozen=True)
class Noise:
    """Variances of a claim's difference.

    Attributes:
        seeds: of one seed's difference; the mean of n seeds has an n-th of it.
        items: that all seeds share.
        difference: mean over the seeds.
        seconds: wall time of one seed of all its arms, one after the other.
    """

    seeds: float
    items: float
    difference: float
    seconds: float


def noise_of(claim: Claim, result: Mapping[str, Any]) -> Noise | None:
    """What a published interval says of seeds and items.

    None without one, or with several parts.
    """
    published = [
        *result.get("claims", []),
        *result.get("uncounted", []),
        *result.get("appendix", {}).get("claims", []),
    ]
    same = [c for c in published if c["claim"] == claim.text and c["interval"] is not None]
    if not same or len(claim.parts) > 1:
        return None
    low, high = same[0]["interval"]
    entries = {
        **result["arms"],
        **result.get("baselines", {}),
        **result.get("appendix", {}).get("arms", {}),
    }
    own = {arm: entries[arm] for arm in claim.arms if arm in entries}
    values = {arm: np.array(entry["metrics"][claim.metric]) for arm, entry in own.items()}
    old = len(result["seeds"])
    whole = ((high - low) / (2 * 1.96)) ** 2
    seeds = whole * old
    if len(values) == len(claim.arms) and old > 1:
        part = claim.parts[0]
        seeds = float(np.var(evaluate(part.left, values) - evaluate(part.right, values), ddof=1))
    times = [entry["wall_seconds"] for entry in own.values() if "values" in entry]
    seconds = sum(float(np.median([s or 0.0 for s in one])) for one in times)
    items = max(0.0, whole - seeds / old)
    return Noise(seeds, items, float(same[0]["difference"]), seconds)


def what_it_takes(claim: Claim, result: Mapping[str, Any]) -> str:
    """How many seeds would tell a difference as large as was seen from none, four times of five.

    Empty where that cannot be said: several parts or metrics, a spread, no interval, or one seed.
    """
    noise = None if claim.others else noise_of(claim, result)
    if noise is None or len(result["seeds"]) < 2 or any(p.has_spread for p in claim.parts):
        return ""
    wanted = (claim.signs[0] * noise.difference - claim.threshold) / POWER_ERRORS
    left = wanted**2 - noise.items
    if left <= 0:
        return "too few items to tell a difference of this size, whatever the seeds"
    count = int(np.ceil(noise.seeds / left))
    return (
        f"{count:,} seeds ({count * noise.seconds / 60:,.0f} minutes) would tell a difference of"
        " this size"
    )
