"""`make compare`: every arm with every seed at equal budget, the verdict computed and published.

``configs/<slug>/compare.yaml`` (`common.engine.comparison.spec`) names base config, metric, arms,
baselines and claims. Each run is a process of its own, so that nothing leaks between arms; finished
runs are reused when config and code are the same, interrupted ones are resumed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.config import ROOT, UserError
from common.engine import workspace as ws
from common.engine.comparison.evidence import freshness
from common.engine.comparison.judge import summarise
from common.engine.comparison.pages import FRESH
from common.engine.comparison.results import comparisons, publish
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schedule import run_all
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import (
    MAIN,
    asks_for_all,
    choose_arms,
    choose_comparisons,
    choose_seeds,
    claims_of,
    read_comparison,
    read_comparisons,
)

__all__ = ["compare", "compare_all", "planned_runs", "read_comparison"]


def planned_runs(
    project: str,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    arms: Sequence[str] = (),
    only: str = "",
) -> list[tuple[Comparison, list[str], list[PlannedRun]]]:
    """What a comparison takes: for each of the project's comparisons its arms and runs.

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
    found = []
    for spec, chosen in zip(specs, choose_arms(specs, arms), strict=True):
        if not chosen:
            continue
        numbers = choose_seeds(spec, seeds)
        plan = [
            PlannedRun(project, spec, arm, seed, overrides) for seed in numbers for arm in chosen
        ]
        plan += [
            PlannedRun(project, spec, name, spec.seeds[0], overrides) for name in spec.baselines
        ]
        found.append((spec, chosen, plan))
    return found


def compare(
    project: str,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    jobs: int = 1,
    arms: Sequence[str] = (),
    lowest_priority: bool = False,
    only: str = "",
) -> dict[str, Any]:
    """Run what is missing, compute the verdicts, write results/<slug>.json, card and plot.

    With overrides, chosen arms or other seeds than compare.yaml's nothing is written. With `only`
    the project's other comparisons stay as they are published.

    Args:
        project: slug.
        overrides: applied to every arm alike.
        seeds: see `planned_runs`.
        jobs: runs at the same time; the cores are divided between them.
        arms: names, or ["full"] for all (see `asks_for_all`); empty for the default arms.
        lowest_priority: of the runs, to work beside something else.
        only: name of the one comparison to run; empty for all.

    Returns:
        The content of the result file: the main comparison, the others under ``more``; of what ran
        alone where nothing is written, and why under ``aside``.

    Raises:
        UserError: unknown arm or metric, a run failed (its log is named), or with `only` the others
            are not published or stale.
    """
    planned = planned_runs(project, overrides, seeds, arms, only)
    runs = {run.path: run for _, _, plan in planned for run in plan}
    known = {arm for spec, _, _ in planned for arm in spec.arms}
    aside = _why_aside(planned, overrides, not arms or asks_for_all(arms, known))
    kept = others_as_published(project, only) if only and not aside else []
    run_all(list(runs.values()), jobs, lowest_priority=lowest_priority, title=project)
    results = [summarise(project, spec, a, plan, overrides) for spec, a, plan in planned]
    specs = [spec for spec, _, _ in planned]
    if kept:
        by_name = {own["name"]: own for own in (*kept, *results)}
        specs = read_comparisons(project)
        results = [by_name[spec.name] for spec in specs]
    result = {**results[0], "more": results[1:]}
    if aside:
        return {**result, "aside": aside}
    keep_appendices(project, result, specs)
    publish(project, result)
    return result


def _why_aside(
    planned: Sequence[tuple[Comparison, list[str], list[PlannedRun]]],
    overrides: Sequence[str],
    every_arm: bool,
) -> str:
    """Why a comparison is shown and not published; empty if it is published."""
    if overrides:
        return f"settings were given ({' '.join(overrides)})"
    if not every_arm:
        return "some arms were chosen"
    for spec, _, plan in planned:
        if {run.seed for run in plan if not run.is_baseline} != set(spec.seeds):
            return f"compare.yaml has the seeds {sorted(spec.seeds)}"
    return ""


def others_as_published(project: str, only: str) -> list[dict[str, Any]]:
    """A project's comparisons but one, as they stand in its result file.

    Args:
        project: slug.
        only: name of the one that is left out.

    Raises:
        UserError: one of them is not published, or is stale.
    """
    path = ROOT / "results" / f"{project}.json"
    published = (
        {own.get("name", ""): own for own in comparisons(ws.read_json(path))}
        if path.exists()
        else {}
    )
    found = []
    for spec in read_comparisons(project):
        name = spec.name or MAIN
        if name == only:
            continue
        own = recounted(published[spec.name], spec) if spec.name in published else None
        state = freshness(project, spec, own)
        if own is None or state != FRESH:
            raise UserError(
                f"ONLY={only} would leave '{name}' as it is published, and that is {state}; "
                f"make compare PROJECT={project} runs both"
            )
        found.append({key: value for key, value in own.items() if key != "more"})
    return found


def recounted(result: Mapping[str, Any], spec: Comparison) -> Mapping[str, Any]:
    """A result whose judged claims stand where compare.yaml has them now, counted or in the appendix.

    Their verdicts are the published ones. Where a claim was never judged or is nowhere in
    compare.yaml any more, the result comes back as it is, and `same_design` tells.
    """
    judged = {c["claim"]: c for c in (*result["claims"], *result.get("uncounted", []))}
    counted = [claim.text for claim in claims_of(spec) if not claim.appendix]
    further = [claim.text for claim in claims_of(spec) if claim.appendix and claim.text in judged]
    if {*counted, *further} != judged.keys():
        return result
    places = {"claims": counted, "uncounted": further}
    return {**result, **{key: [judged[text] for text in own] for key, own in places.items()}}


def keep_appendices(project: str, result: dict[str, Any], specs: Sequence[Comparison]) -> None:
    """Keep what ARMS=full published earlier, as long as its arms are those of compare.yaml."""
    path = ROOT / "results" / f"{project}.json"
    if not path.exists():
        return
    published = ws.read_json(path)
    before = {r.get("name", ""): r for r in (published, *published.get("more", []))}
    for own, spec in zip((result, *result["more"]), specs, strict=True):
        appendix = before.get(spec.name, {}).get("appendix")
        if appendix and "appendix" not in own:
            arms = {arm: entry["overrides"] for arm, entry in appendix["arms"].items()}
            if all(spec.arms.get(arm) == overrides for arm, overrides in arms.items()):
                own["appendix"] = appendix


def compare_all(
    jobs: int,
    projects: Sequence[str],
    after: Callable[[str, dict[str, Any]], object] = lambda project, result: None,
) -> list[str]:
    """Compare the projects one after the other at lowest priority.

    Killed, it goes on when called again.

    Args:
        jobs: runs at the same time.
        projects: slugs, such as those whose result is stale.
        after: called with each project and its result.

    Returns:
        One line for each project that failed; the others are done.
    """
    failed = []
    for number, project in enumerate(projects, 1):
        print(f"[{number}/{len(projects)}] {project}", flush=True)  # noqa: T201
        try:
            after(project, compare(project, jobs=jobs, lowest_priority=True))
        except UserError as error:
            failed.append(f"{project}: {error}")
            print(f"error: {failed[-1]}", flush=True)  # noqa: T201
    return failed
