"""`make compare VERIFY=1`: a stale result counts again where today's code gives its numbers.

Most changes of code leave every number alone, and make the result stale all the same. Runs are
deterministic on one kind of machine, so one seed of every arm and every baseline, run again, tells:
where all their metrics are met to the last digit, the result counts as one of today's code. On
another kind of machine, `common.engine.renewal.earlier` runs the code of both days.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.config import ROOT, UserError
from common.engine import workspace as ws
from common.engine.comparison.compare import planned_runs
from common.engine.comparison.dependencies import code_hash, file_hashes
from common.engine.comparison.evidence import same_design
from common.engine.comparison.results import comparisons, publish
from common.engine.comparison.runs import PlannedRun, baseline_files, code_of
from common.engine.comparison.schedule import run_all
from common.engine.comparison.schema import Comparison

# metrics that the clock and the memory of a machine give, which no two runs share
OF_THE_MACHINE = re.compile(r"seconds$|per_second$|_mib$|^speedup|^break_even")
Planned = list[tuple[Comparison, list[str], list[PlannedRun]]]


@dataclass(frozen=True)
class Difference:
    """A metric that isn't what was published; None where a run has none of that name."""

    run: str
    metric: str
    published: float | None
    now: float | None


def published_result(project: str) -> dict[str, Any]:
    """Content of a project's result file.

    Raises:
        UserError: there is none.
    """
    path = ROOT / "results" / f"{project}.json"
    if not path.exists():
        raise UserError(f"{project} has no published result: make compare PROJECT={project}")
    return ws.read_json(path)  # type: ignore[no-any-return]


def planned_again(
    project: str, result: Mapping[str, Any], seeds: str | None, overrides: Sequence[str] = ()
) -> Planned:
    """Runs of some seeds of a published result, by today's code.

    Args:
        project: slug.
        result: its result file.
        seeds: how many of compare.yaml's, or a list of them; None for the first.
        overrides: of every run.

    Raises:
        UserError: the result's design is no longer that of compare.yaml, or it lacks a seed.
    """
    published = {own.get("name", ""): own for own in comparisons(result)}
    planned = planned_runs(project, overrides, seeds or "1")
    for spec, _, plan in planned:
        own = published.get(spec.name)
        if own is None or not same_design(spec, own):
            raise UserError(
                f"compare.yaml of {project} has changed since the result: make compare"
                f" PROJECT={project}"
            )
        if unknown := {run.seed for run in plan if not run.is_baseline} - {*own["seeds"]}:
            raise UserError(f"{project} was published with seeds {own['seeds']}, not {unknown}")
    return planned


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
    result = published_result(project)
    published = {own.get("name", ""): own for own in (result, *result.get("more", []))}
    planned = planned_again(project, result, seeds)
    run_all(
        list({run.path: run for _, _, plan in planned for run in plan}.values()),
        jobs,
        lowest_priority=lowest_priority,
        title=f"{project} again",
    )
    found = [d for spec, _, plan in planned for d in differences(published[spec.name], plan)]
    if not found:
        for spec, arms, plan in planned:
            published[spec.name]["verified"] = stamp(project, spec, arms, plan)
        publish(project, result)
    return found


def differences(result: Mapping[str, Any], plan: Sequence[PlannedRun]) -> list[Difference]:
    """Published metrics, but those of the machine, that finished runs don't meet to the last digit.

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
            if OF_THE_MACHINE.search(name):
                continue
            then, now = values[index], metrics.get(name)
            if then != now and not (then != then and now is not None and now != now):
                found.append(Difference(run.run_id, name, then, now))
    return found


def config_hash(run: PlannedRun, spec: Comparison) -> str:
    """Of the run's arm with the first seed, which a result is asked for."""
    return run.with_seed(min(spec.seeds)).config_hash


def stamp(
    project: str, spec: Comparison, arms: Sequence[str], plan: Sequence[PlannedRun]
) -> dict[str, Any]:
    """What a renewed result says of its second runs: seeds, code, configs, commit and date."""
    return {
        "seeds": sorted({run.seed for run in plan if not run.is_baseline}),
        "code": code_hash(project),
        "files": file_hashes(project),
        "baseline_files": baseline_files(project, spec),
        "config_hashes": {
            arm: config_hash(next(r for r in plan if r.arm == arm), spec) for arm in arms
        },
        **code_of(plan),
        "hardware": plan[0].meta()["hardware"],
        "date": datetime.date.today().isoformat(),
    }
