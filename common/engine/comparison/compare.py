"""`make compare`: every arm with every seed at equal budget, verdicts computed and published.

Each run is a process of its own, so that nothing leaks between arms. Finished runs are reused when
config and commit are the same and the tree was clean, interrupted ones are resumed.
"""

from collections.abc import Sequence
from typing import Any

from common import __version__
from common.config import UserError
from common.engine.comparison.cards import publish
from common.engine.comparison.results import read_results, summarise
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schedule import run_all
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import (
    asks_for_all,
    choose_arms,
    choose_comparisons,
    choose_seeds,
    read_comparisons,
)
from common.engine.provenance import code_state

Planned = list[tuple[Comparison, list[str], list[PlannedRun]]]


def planned_runs(
    project: str,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    arms: Sequence[str] = (),
    only: str = "",
) -> Planned:
    """The arms and runs of each of the project's comparisons.

    Args:
        project: slug.
        overrides: applied to every arm alike.
        seeds: None for those of compare.yaml; a count (the first ones) or a list, such as
            ``10,11``.
        arms: names, or ["full"] for all (see `asks_for_all`); empty for the default arms.
        only: name of one of the comparisons; empty for all.

    Raises:
        UserError: an arm, baseline, seed, config or name that isn't valid.
    """
    specs = choose_comparisons(read_comparisons(project), only)
    planned = []
    for spec, chosen in zip(specs, choose_arms(specs, arms), strict=True):
        if not chosen:
            continue
        runs = [
            PlannedRun(project, spec, arm, seed, overrides)
            for seed in choose_seeds(spec, seeds)
            for arm in chosen
        ]
        runs += [
            PlannedRun(project, spec, name, spec.seeds[0], overrides) for name in spec.baselines
        ]
        planned.append((spec, chosen, runs))
    return planned


def compare(
    project: str,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    jobs: int = 1,
    arms: Sequence[str] = (),
    lowest_priority: bool = False,
    only: str = "",
) -> tuple[list[dict[str, Any]], str]:
    """Run what is missing, compute the verdicts, write results, card and plot.

    With overrides, chosen arms or other seeds than compare.yaml's nothing is written. With `only`
    the project's other comparisons stay as they are published.

    Args:
        project: slug.
        overrides: applied to every arm alike.
        seeds: see `planned_runs`.
        jobs: runs at the same time; the cores are divided between them.
        arms: names, or ["full"] for all (see `asks_for_all`); empty for the default arms.
        lowest_priority: of the runs, to leave the machine to others.
        only: name of the one comparison to run; empty for all.

    Returns:
        Comparisons as of `read_results` with values, the main one first, and why nothing was
        written; empty if it was.

    Raises:
        UserError: unknown arm or metric, a run failed (the message has its log), or with `only`
            the others are not published.
    """
    planned = planned_runs(project, overrides, seeds, arms, only)
    reason = _why_unpublished(planned, overrides, arms)
    published = {c["name"]: c for c in read_results(project, values=True)} if only else {}
    names = [spec.name for spec in read_comparisons(project)]
    missing = [name for name in names if name != only and name not in published]
    if only and not reason and missing:
        raise UserError(
            f"ONLY={only} leaves '{missing[0]}' as it is published, and that has not run; "
            f"make compare PROJECT={project} runs all"
        )
    runs = {run.path: run for _, _, plan in planned for run in plan}
    run_all(list(runs.values()), jobs, lowest_priority=lowest_priority, title=project)
    comparisons = [summarise(spec, chosen, plan, overrides) for spec, chosen, plan in planned]
    if reason:
        return comparisons, reason
    measured = {comparison["name"]: comparison for comparison in comparisons}
    comparisons = [{**published, **measured}[name] for name in names]
    publish(project, comparisons)
    return comparisons, ""


def _why_unpublished(planned: Planned, overrides: Sequence[str], arms: Sequence[str]) -> str:
    if overrides:
        return f"settings were given ({' '.join(overrides)})"
    if arms and not asks_for_all(arms, {arm for spec, _, _ in planned for arm in spec.arms}):
        return "some arms were chosen"
    for spec, _, plan in planned:
        if {run.seed for run in plan if not run.is_baseline} != set(spec.seeds):
            return f"compare.yaml has the seeds {sorted(spec.seeds)}"
    return ""


def is_measured(project: str) -> bool:
    """Whether a project's results are of this version and commit, without local changes."""
    code = code_state()
    here = (__version__, code["commit"], True)
    names = {spec.name for spec in read_comparisons(project)}
    measured = {c["name"]: c["measured"] for c in read_results(project)}
    return not code["dirty"] and all(
        name in measured
        and tuple(measured[name][key] for key in ("version", "commit", "clean")) == here
        for name in names
    )


def compare_all(jobs: int, projects: Sequence[str]) -> list[str]:
    """Run the comparisons of a release at lowest priority, one project after the other.

    Stopped and started again it continues: what was measured at this version and commit is done.

    Args:
        jobs: runs at the same time.
        projects: slugs.

    Returns:
        One line for each project that failed; the others are done.
    """
    waiting = [project for project in projects if not is_measured(project)]
    print(f"{len(projects) - len(waiting)} of {len(projects)} are measured", flush=True)  # noqa: T201
    failed = []
    for number, project in enumerate(waiting, 1):
        print(f"[{number}/{len(waiting)}] {project}", flush=True)  # noqa: T201
        try:
            compare(project, jobs=jobs, lowest_priority=True)
        except UserError as error:
            failed.append(f"{project}: {error}")
            print(f"error: {failed[-1]}", flush=True)  # noqa: T201
    return failed
