"""`make compare VERIFY=baselines`: baselines run again beside arms that stay as they were published.

A baseline trains nothing, so a mended or a further one need not wait for every arm to run again.
The
arms have to be fresh, and no claim may compare with a baseline: its interval needs the items of
both.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.config import UserError
from common.engine.comparison.evidence import freshness
from common.engine.comparison.judge import below_baselines, entry_of
from common.engine.comparison.pages import FRESH
from common.engine.comparison.results import publish
from common.engine.comparison.runs import PlannedRun, baseline_files, code_of
from common.engine.comparison.schedule import run_all
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import Claim, claims_of, read_comparisons
from common.engine.renewal.published import published_result

JUDGED = ("claims", "uncounted")


def renew_baselines(project: str, jobs: int = 1) -> list[str]:
    """Run the baselines of compare.yaml and put their numbers beside the published ones of the arms.

    Args:
        project: slug.
        jobs: runs at the same time.

    Returns:
        Names of all baselines that ran.

    Raises:
        UserError: nothing is published, the arms are stale, a claim compares with a baseline, or a
            run failed.
    """
    result = published_result(project)
    published = {own.get("name", ""): own for own in (result, *result.get("more", []))}
    planned = []
    for spec in read_comparisons(project):
        own = published.get(spec.name)
        check_arms(project, spec, own)
        assert own is not None
        runs = [PlannedRun(project, spec, name, spec.seeds[0]) for name in spec.baselines]
        planned.append((spec, own, runs))
    plan = list({run.path: run for _, _, runs in planned for run in runs}.values())
    if not plan:
        raise UserError(f"compare.yaml of {project} names no baselines")
    run_all(plan, jobs, title=f"{project}: baselines")
    for spec, own, runs in planned:
        own["baselines"] = {run.arm: entry_of(project, spec, [run]) for run in runs}
        known = own.get("verified", own)
        known["baseline_files"] = baseline_files(project, spec)
        own["baselines_again"] = {
            **code_of(plan),
            "hardware": plan[0].meta()["hardware"],
            "date": datetime.date.today().isoformat(),
        }
        claims = {claim.text: claim for claim in claims_of(spec)}
        arms = {**own["arms"], **own.get("appendix", {}).get("arms", {})}
        lists = [own.get(kind, []) for kind in JUDGED]
        for judged in (*lists, own.get("appendix", {}).get("claims", [])):
            for entry in judged:
                entry["below"] = marks(claims[entry["claim"]], spec, own["baselines"], arms)
    publish(project, result)
    return list(dict.fromkeys(run.arm for run in plan))


def check_arms(project: str, spec: Comparison, own: Mapping[str, Any] | None) -> None:
    """Refuse arms that today's code would not give, and claims that compare with a baseline.

    Raises:
        UserError: so.
    """
    if own is None:
        raise UserError(f"{project} has no published result: make compare PROJECT={project}")
    beside = replace(spec, baselines=list(own["baselines"]))
    apart = {key: value for key, value in own.items() if key != "baseline_files"}
    if "verified" in apart:
        apart["verified"] = {k: v for k, v in apart["verified"].items() if k != "baseline_files"}
    if (state := freshness(project, beside, apart)) != FRESH:
        raise UserError(
            f"the arms of {project} are {state}; renew them first: make compare PROJECT={project}"
            " VERIFY=code"
        )
    names = {*spec.baselines, *own["baselines"]}
    for claim in claims_of(spec):
        if names & {*claim.needed}:
            raise UserError(
                f"the claim '{claim.text}' compares with a baseline, and needs its items beside the"
                f" arm's: make compare PROJECT={project}"
            )


def marks(
    claim: Claim,
    spec: Comparison,
    baselines: Mapping[str, Mapping[str, Any]],
    arms: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """The claim's methods that the best baseline without training beats, from published entries."""
    known = {name: _first(entry["metrics"]) for name, entry in baselines.items()}
    found = []
    for one in (claim, *claim.others):
        means = {
            arm: float(np.mean(entry["metrics"][one.metric]))
            for arm, entry in arms.items()
            if one.metric in entry["metrics"]
        }
        found += below_baselines(one, spec, known, means.__getitem__)
    return found


def _first(metrics: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {name: values[0] for name, values in metrics.items()}
