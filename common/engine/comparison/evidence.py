"""Every claim of every project, its verdict, and whether that is of today's code: `make evidence`."""

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from common.config import ROOT
from common.engine.comparison.dependencies import (
    code_hash,
    executed,
    file_hashes,
)
from common.engine.comparison.pages import (
    FRESH,
    NOT_RUN,
    Row,
    counts,
    evidence_page,
    evidence_picture,
    read_results,
)
from common.engine.comparison.planning import what_it_takes
from common.engine.comparison.results import comparisons, interval_text, verdict_word
from common.engine.comparison.runs import PlannedRun, baseline_files
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import Claim, claims_of, default_arms, read_comparisons
from common.engine.workspace import read_json, write_text
from common.registry import list_projects

README = re.compile(r"(<!-- evidence:begin -->\n).*?(<!-- evidence:end -->)", re.S)


def evidence_rows(projects: Sequence[str] | None = None) -> list[Row]:
    """The claims of the projects, published or not.

    Args:
        projects: slugs; None for all.
    """
    found = []
    for project in projects if projects is not None else list_projects():
        path = ROOT / "results" / f"{project}.json"
        result = read_json(path) if path.exists() else None
        published = {r.get("name", ""): r for r in comparisons(result)} if result else {}
        for spec in read_comparisons(project):
            found += _rows(project, spec, published.get(spec.name))
    return found


def _rows(project: str, spec: Comparison, result: Mapping[str, Any] | None) -> list[Row]:
    state = freshness(project, spec, result)
    claims = {claim.text: claim for claim in claims_of(spec) if not claim.appendix}
    if result is None:
        return [
            Row(project, text, NOT_RUN, "", claim.paper, "", "", state, None)
            for text, claim in claims.items()
        ]
    minutes = run_minutes(result)
    return [
        Row(
            project,
            claim["claim"],
            verdict_word(claim),
            f"{claim['difference']:+.4f}, {interval_text(claim)}{_excluded(claim)}"
            f"{_further(claim, claims.get(claim['claim']), result)}",
            claims[claim["claim"]].paper if claim["claim"] in claims else claim.get("paper", ""),
            ", ".join(sorted({low["baseline"] for low in claim.get("below", [])})),
            result["date"],
            state,
            minutes,
            bool(result.get("void")),
            bool(_excluded(claim)),
        )
        for claim in result["claims"]
    ]


def _excluded(claim: Mapping[str, Any]) -> str:
    """What to say of a claim that is not shown and whose interval excludes the paper's relative effect."""
    published = claim.get("published", {})
    if verdict_word(claim) != "not shown" or not published.get("excluded"):
        return ""
    return f", excludes the paper's relative size ({published['effect']:+.4f})"


def _further(claim: Mapping[str, Any], known: Claim | None, result: Mapping[str, Any]) -> str:
    """What more runs would do for a claim that is not shown."""
    told = what_it_takes(known, result) if known and verdict_word(claim) == "not shown" else ""
    return told and f"; {told}"


def freshness(project: str, spec: Comparison, result: Mapping[str, Any] | None) -> str:
    """Whether a result is what today's code, config and compare.yaml would give."""
    if result is None:
        return NOT_RUN
    known = result.get("verified", result)  # `make compare VERIFY=1`
    if "code" not in known:
        return "stale: its code is not recorded"
    runs = {arm: PlannedRun(project, spec, arm, min(spec.seeds)) for arm in default_arms(spec)}
    where = {
        "on_gpu": bool(result["hardware"]["gpu"]),
        "alone": all(run.alone for run in runs.values()),
    }
    then = executed(known.get("files", {}), **where)
    now = executed(file_hashes(project), **where)
    if then != now and known["code"] != code_hash(project):
        return f"stale: {changed_files(then, now)}"
    if not same_design(spec, result):
        return "stale: compare.yaml changed"
    if "baseline_files" in known:  # results published before this was recorded don't tell
        own = baseline_files(project, spec)
        if known["baseline_files"] != own:
            return f"stale: {changed_files(known['baseline_files'], own)}"
    hashes = known.get("config_hashes") or {a: e["config_hash"] for a, e in result["arms"].items()}
    for arm, value in hashes.items():
        if runs[arm].config_hash != value:
            return "stale: config changed"
    return FRESH


def same_design(spec: Comparison, result: Mapping[str, Any]) -> bool:
    """Whether a result has the arms, seeds, baselines and claims of compare.yaml, judged by its rules.

    Results published before the rules were recorded are asked for metric and direction alone.
    """
    rules = {claim.text: claim.rule for claim in claims_of(spec)}
    judged = [*result["claims"], *result.get("uncounted", [])]
    arms = {arm: spec.arms[arm] for arm in default_arms(spec)}
    return (
        {arm: entry["overrides"] for arm, entry in result["arms"].items()} == arms
        and (result["metric"], result["direction"]) == (spec.metric, spec.direction)
        and result.get("bounds", spec.bounds) == spec.bounds
        and all(c.get("rule", rules.get(c["claim"])) == rules.get(c["claim"]) for c in judged)
        and result["seeds"] == sorted(spec.seeds)
        and list(result["baselines"]) == spec.baselines
        and [c["claim"] for c in result["claims"]]
        == [claim.text for claim in claims_of(spec) if not claim.appendix]
    )


def changed_files(then: Mapping[str, str], now: Mapping[str, str], most: int = 3) -> str:
    """Which files differ, in words."""
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if not then or not names:
        return "code or data changed"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more} changed"


def run_minutes(result: Mapping[str, Any]) -> float:
    """Wall time of a result's runs."""
    entries = [*result["arms"].values(), *result.get("baselines", {}).values()]
    return sum(s or 0.0 for entry in entries for s in entry["wall_seconds"]) / 60


def stale_projects(rows: Sequence[Row]) -> list[str]:
    """Projects with a result that isn't fresh, the shortest first."""
    waiting = {row.project: row.minutes or 0.0 for row in rows if row.state != FRESH}
    return sorted(waiting, key=lambda project: waiting[project])


def age(row: Row, today: datetime.date | None = None) -> str:
    """Days since the result."""
    if not row.date:
        return ""
    days = ((today or datetime.date.today()) - datetime.date.fromisoformat(row.date)).days
    return f"{days} d"


def current_page(rows: Sequence[Row]) -> str:
    """docs/evidence.md of today's results, designs and code."""
    return evidence_page(list(list_projects()), read_results(ROOT / "results"), rows)


def write_evidence(rows: Sequence[Row]) -> list[str]:
    """Write docs/evidence.md with its picture and the counts in README.

    Returns what was written.
    """
    (ROOT / "docs/images").mkdir(parents=True, exist_ok=True)
    write_text(ROOT / "docs/images/evidence.svg", evidence_picture(rows))
    write_text(ROOT / "docs" / "evidence.md", current_page(rows))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if not README.search(text):
        return ["docs/evidence.md"]
    write_text(readme, README.sub(lambda m: f"{m[1]}{counts(rows)}\n{m[2]}", text))
    return ["docs/evidence.md", "README.md"]
