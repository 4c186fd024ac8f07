"""`make compare VERIFY=1`: whether today's code still gives the numbers of a published result.

A result is stale as soon as code that its runs can reach has changed, although many a change (a
moved function, a message, a faster path) leaves every number alone. Runs are deterministic, so one
seed of every arm and every baseline, run again, tells the two apart: where all their metrics are
met to the last digit, the result counts as one of today's code and names the seeds that show it.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.config import ROOT, UserError
from common.engine.comparison.compare import planned_runs
from common.engine.comparison.dependencies import code_hash, file_hashes
from common.engine.comparison.evidence import same_design
from common.engine.comparison.results import publish
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schedule import run_all
from common.engine.workspace import read_json


@dataclass(frozen=True)
class Difference:
    """A metric that isn't what was published; None where a run has none of that name."""

    run: str
    metric: str
    published: float
    now: float | None


def verify(
    project: str, seeds: str | None = None, jobs: int = 1, lowest_priority: bool = False
) -> list[Difference]:
    """Run some seeds of a published comparison again; without a difference the result is renewed.

    Args:
        project: slug.
        seeds: how many of compare.yaml's, or a list of them; None for the first.
        jobs: runs at the same time.
        lowest_priority: of the runs.

    Returns:
        What differs. With anything in it the published result stays as it is.

    Raises:
        UserError: nothing is published, its design is no longer that of compare.yaml, a seed that
            it doesn't have, or a run failed.
    """
    path = ROOT / "results" / f"{project}.json"
    if not path.exists():
        raise UserError(f"{project} has no published result: make compare PROJECT={project}")
    result = read_json(path)
    published = {own.get("name", ""): own for own in (result, *result.get("more", []))}
    planned = planned_runs(project, (), seeds or "1")
    for spec, _, plan in planned:
        own = published.get(spec.name)
        if own is None or not same_design(spec, own):
            raise UserError(
                f"compare.yaml of {project} has changed since the result: make compare PROJECT={project}"
            )
        if unknown := {run.seed for run in plan if not run.is_baseline} - {*own["seeds"]}:
            raise UserError(f"{project} was published with seeds {own['seeds']}, not {unknown}")
    run_all(
        list({run.path: run for _, _, plan in planned for run in plan}.values()), jobs,
        lowest_priority=lowest_priority, title=f"{project} again",
    )  # fmt: skip
    found = [d for spec, _, plan in planned for d in differences(published[spec.name], plan)]
    if not found:
        for spec, arms, plan in planned:
            published[spec.name]["verified"] = stamp(project, arms, plan)
        publish(project, result)
    return found


def differences(result: Mapping[str, Any], plan: Sequence[PlannedRun]) -> list[Difference]:
    """Published metrics that finished runs don't meet to the last digit.

    Args:
        result: a published comparison.
        plan: its baselines and arms, with seeds that it has.
    """
    found = []
    for run in plan:
        entry = result["baselines" if run.is_baseline else "arms"][run.arm]
        index = 0 if run.is_baseline else result["seeds"].index(run.seed)
        metrics = run.metrics()
        for name, values in entry["metrics"].items():
            then, now = values[index], metrics.get(name)
            if then != now and not (then != then and now is not None and now != now):
                found.append(Difference(run.run_id, name, then, now))
    return found


def stamp(project: str, arms: Sequence[str], plan: Sequence[PlannedRun]) -> dict[str, Any]:
    """What a renewed result says of its second runs: seeds, code, configs, commit and date."""
    meta = plan[0].meta()
    return {
        "seeds": sorted({run.seed for run in plan if not run.is_baseline}),
        "code": code_hash(project),
        "files": file_hashes(project),
        "config_hashes": {arm: next(r for r in plan if r.arm == arm).config_hash for arm in arms},
        **{key: meta[key] for key in ("commit", "dirty", "hardware")},
        "date": datetime.date.today().isoformat(),
    }
