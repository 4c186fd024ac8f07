"""`make compare PLAN=1`: runs, minutes, and the difference that seeds and items can resolve."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.engine.comparison.claims import Claim, claims_of
from common.engine.comparison.judge import comparable
from common.engine.comparison.results import read_results
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import MAIN
from common.engine.comparison.values import ArmValues, values_of
from common.evaluation.resampling import Floats, resample

# a two-sided 95 % interval excludes the threshold with a probability of 80 % at this many standard
# errors (1.96 + 0.84)
POWER_ERRORS = 2.80
ITEM_SAMPLES = 400


@dataclass(frozen=True)
class Resolution:
    """The smallest difference that a part of a claim can show.

    Attributes:
        claim: its text.
        difference: detected with a probability of 80 %; None if there is no estimate of its noise.
        source: what the noise was estimated from.
    """

    claim: str
    difference: float | None
    source: str


@dataclass(frozen=True)
class Plan:
    """Cost of a comparison, and what it can show.

    Attributes:
        name: of the comparison.
        num_runs: arms x seeds and baselines.
        num_missing: those that have not run.
        num_guessed: missing ones of arms that have never run, counted with the mean of the others.
        minutes: estimate for the missing ones; None without a finished run to go by.
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
        title = "" if self.name == MAIN else f"{self.name}: "
        lines = [f"{title}{self.num_runs} runs, {self.num_missing} missing; {minutes}"]
        for part in self.resolutions:
            shown = "unknown" if part.difference is None else f"{part.difference:.4f}"
            lines.append(f"  {part.claim}: resolves {shown} ({part.source})")
        return lines


def make_plan(
    project: str, spec: Comparison, arms: Sequence[str], plan: Sequence[PlannedRun], jobs: int
) -> Plan:
    """Estimate a comparison from finished runs and published results.

    Args:
        project: slug.
        spec: the comparison.
        arms: that would run.
        plan: their runs and those of the baselines.
        jobs: runs at the same time.
    """
    published = {c["name"]: c for c in read_results(project, values=True)}.get(spec.name, {})
    finished = {name: _finished(plan, name) for name in (*arms, *spec.baselines)}
    missing = [run for run in plan if not run.done]
    seconds = [_seconds(run.arm, finished, published) for run in missing]
    measured = [s for s in seconds if s is not None]
    total: float | None = 0.0 if not missing else None
    if measured:
        total = float(np.mean(measured)) * len(seconds) / 60 / max(1, jobs)
    num_seeds = len({run.seed for run in plan if not run.is_baseline})
    resolutions = [
        resolution
        for claim in claims_of(spec)
        if all(arm in finished for arm in claim.arms)
        for resolution in _resolutions(claim, finished, published, num_seeds)
    ]
    guessed = len(seconds) - len(measured)
    return Plan(spec.name, len(plan), len(missing), guessed, total, tuple(resolutions))


def _finished(plan: Sequence[PlannedRun], name: str) -> list[PlannedRun]:
    """Finished runs of an arm with its present config, by any code, one for each seed.

    Besides those of the plan, runs with other seeds (pilots) are looked for in the run folder.
    """
    example = next((run for run in plan if run.arm == name), None)
    if example is None:
        return []
    prefix = example.stem.rpartition("-seed")[0]
    runs: dict[int, PlannedRun] = {}
    for path in sorted(
        example.folder.glob(f"{prefix}-seed*/metrics.json"), key=lambda p: p.stat().st_mtime
    ):
        match = re.fullmatch(rf"{re.escape(prefix)}-seed(\d+)-(\w+)-.+", path.parent.name)
        if match is None:
            continue
        run = example.with_seed(int(match[1]))
        if run.config_hash == match[2]:
            run.path = path.parent
            runs[run.seed] = run
    return [runs[seed] for seed in sorted(runs)]


def _seconds(
    name: str, finished: Mapping[str, Sequence[PlannedRun]], published: Mapping[str, Any]
) -> float | None:
    """Wall time of a run of an arm: of finished runs, else of the published result."""
    measured = [run.meta().get("wall_seconds") for run in finished.get(name, [])]
    if not any(measured) and name in published.get("values", {}):
        measured = published["values"][name].seconds
    seconds = [s for s in measured if s]
    return float(np.mean(seconds)) if seconds else None


def _resolutions(
    claim: Claim,
    finished: Mapping[str, Sequence[PlannedRun]],
    published: Mapping[str, Any],
    num_seeds: int,
) -> list[Resolution]:
    trained = [arm for arm in claim.arms if finished[arm] and not finished[arm][0].is_baseline]
    shared = (
        set.intersection(*({r.seed for r in finished[a]} for a in trained)) if trained else set()
    )
    if all(finished[arm] for arm in claim.arms) and (len(shared) > 1 or not trained):
        arms = {
            arm: values_of(
                [r for r in finished[arm] if r.is_baseline or r.seed in shared], [claim.metric]
            )
            for arm in claim.arms
        }
        return _from_runs(claim, arms, len(shared), num_seeds)
    return _from_result(claim, published, num_seeds)


def _from_runs(
    claim: Claim, arms: Mapping[str, ArmValues], num_finished: int, num_seeds: int
) -> list[Resolution]:
    scores, _ = comparable(claim, arms)
    items = all(s.num_items > 1 for sets in scores.values() for s in sets)
    _, samples = resample(scores, seeds=False, num_samples=ITEM_SAMPLES) if items else ({}, {})
    resampled = claim.parts(samples) if items else {}
    resolutions = []
    for text, differences in _differences(claim, arms).items():
        variance = float(np.var(differences, ddof=1)) / num_seeds if len(differences) > 1 else 0.0
        source = f"noise of {num_finished} finished seeds, {num_seeds} planned"
        if items:
            variance += float(np.var(resampled[text][0] - resampled[text][1]))
        else:
            source += ", no items"
        shown = text if len(claim.right) > 1 else claim.text
        resolutions.append(Resolution(shown, POWER_ERRORS * float(np.sqrt(variance)), source))
    return resolutions


def _differences(claim: Claim, arms: Mapping[str, ArmValues]) -> dict[str, Floats]:
    """Left minus right of each part, one number for each seed."""
    per_seed = {arm: np.array(arms[arm].of(claim.metric)) for arm in claim.arms}
    return {
        text: np.atleast_1d(left - right) for text, (left, right) in claim.parts(per_seed).items()
    }


def _from_result(claim: Claim, published: Mapping[str, Any], num_seeds: int) -> list[Resolution]:
    """From a published interval: what its seeds don't explain is due to the items."""
    judged = [*published.get("claims", []), *published.get("appendix", [])]
    same = [c for c in judged if c["claim"] == claim.text and c["interval"] is not None]
    if not same or "parts" in same[0]:
        return [Resolution(claim.text, None, "nothing has run; try pilots, such as SEEDS=100,101")]
    low, high = same[0]["interval"]
    (differences,) = _differences(claim, published["values"]).values()
    whole, old = ((high - low) / (2 * 1.96)) ** 2, len(published["seeds"])
    seeds = float(np.var(differences, ddof=1)) if old > 1 else whole * old
    variance = seeds / num_seeds + max(0.0, whole - seeds / old)
    date = published["measured"]["date"]
    source = f"noise of the result of {date}, {old} seeds; {num_seeds} planned"
    return [Resolution(claim.text, POWER_ERRORS * float(np.sqrt(variance)), source)]
