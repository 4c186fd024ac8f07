"""Values, means, paired differences and verdicts of finished runs."""

import datetime
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.config import CONFIG_DIR, ROOT, UserError, config_path, nearest
from common.engine.comparison.dependencies import code_hash, file_hashes
from common.engine.comparison.expressions import evaluate, favoured
from common.engine.comparison.runs import PlannedRun, baseline_files, code_of, scores
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import Claim, claims_of, default_arms
from common.evaluation.resampling import Floats, Scores, resample
from common.evaluation.statistics import Interval, verdict

CONFIDENCE = 0.95
NOT_TESTABLE = "not testable here"


def summarise(
    project: str,
    spec: Comparison,
    arms: Sequence[str],
    plan: Sequence[PlannedRun],
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The result of a comparison: a table of its arms, its claims, where they come from.

    Args:
        project: slug.
        spec: the comparison.
        arms: that have run; claims on others are left out.
        plan: finished runs of the arms and baselines.
        overrides: from the command line.

    Raises:
        UserError: a metric that the runs don't have.
    """
    names = [*arms, *spec.baselines]
    runs = {
        name: sorted((r for r in plan if r.arm == name), key=lambda r: r.seed) for name in names
    }
    table = {arm: entry_of(project, spec, runs[arm]) for arm in arms}
    usual = set(default_arms(spec))
    judged: dict[str, list[dict[str, Any]]] = {"claims": [], "uncounted": [], "appendix": []}
    for claim in claims_of(spec):
        if all(arm in runs for arm in claim.needed):
            further = not usual.union(spec.baselines).issuperset(claim.needed)
            kind = "claims" if not claim.appendix else "appendix" if further else "uncounted"
            judged[kind].append(judge(claim, spec, runs))
    meta = plan[0].meta()
    result = {
        "project": project,
        "name": spec.name,
        "base": spec.base,
        "metric": spec.metric,
        "also": spec.also,
        "shared": spec.shared,
        "direction": spec.direction,
        "seeds": sorted({run.seed for run in plan if not run.is_baseline}),
        "overrides": list(overrides),
        "arms": {arm: entry for arm, entry in table.items() if arm in usual},
        "baselines": {name: entry_of(project, spec, runs[name]) for name in spec.baselines},
        "bounds": spec.bounds,
        "claims": judged["claims"],
        "uncounted": judged["uncounted"],  # of the appendix, on arms that run anyway
        "note": spec.note,
        "code": code_hash(project),
        "files": file_hashes(project),
        "baseline_files": baseline_files(project, spec),
        **design_commit(project, spec.base),
        **code_of(plan),
        **{key: meta[key] for key in ("hardware", "versions")},
        "precision": meta.get("precision"),
        "date": datetime.date.today().isoformat(),
    }
    others = {arm: entry for arm, entry in table.items() if arm not in usual}
    if others:
        result["appendix"] = {
            "arms": others,
            "claims": judged["appendix"],
            **{key: result[key] for key in ("seeds", "code", "commit", "dirty", "date")},
        }
    return result


def judge(
    claim: Claim, spec: Comparison, runs: Mapping[str, Sequence[PlannedRun]]
) -> dict[str, Any]:
    """A claim's differences, intervals and verdict.

    Args:
        claim: its arms have run.
        spec: the comparison.
        runs: per arm one run for each seed, in the same order; per baseline one.
    """
    found = _judge(claim, spec, runs)
    for other in claim.others:
        found = _both(found, _judge(other, spec, runs))
    return {**found, "rule": claim.rule}


def _both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One verdict for a claim in two metrics.

    The numbers are the first's, the parts those of both.
    """
    words = (first["verdict"], second["verdict"])
    worst = next(
        (w for w in (NOT_TESTABLE, "contradicted", "not shown") if w in words), "supported"
    )
    parts = [*first.get("parts", [_as_part(first)])]
    for part in second.get("parts", [_as_part(second)]):
        name = "" if second["metric"] in part["claim"].split() else f" in {second['metric']}"
        parts.append({**part, "claim": part["claim"] + name})
    return {**first, "verdict": worst, "parts": parts, "below": [*first["below"], *second["below"]]}


def _as_part(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("claim", "difference", "interval", "here", "verdict")}


def _judge(
    claim: Claim, spec: Comparison, runs: Mapping[str, Sequence[PlannedRun]]
) -> dict[str, Any]:
    sets, unit = comparable(claim, runs)
    point, samples = resample(sets) if unit else ({}, {})
    if not unit:
        point = {arm: float(s[0].values.mean()) for arm, s in sets.items()}
    parts = [_part(claim, i, point, samples if unit else None) for i in range(len(claim.parts))]
    verdicts = [part["verdict"] for part in parts]
    weakest = min(parts, key=lambda part: part.pop("slack"))
    word = "contradicted" if "contradicted" in verdicts else "not shown"
    found: dict[str, Any] = {
        "claim": claim.text,
        "difference": weakest["difference"],
        "interval": weakest["interval"],
        "here": weakest["here"],
        "resampled": unit or "nothing: one seed and no items, which gives no interval",
        "verdict": "supported" if set(verdicts) == {"supported"} else word,
        **claim.extras,
        "paper": claim.paper,
        "below": below_baselines(
            claim,
            spec,
            {name: runs[name][0].metrics() for name in spec.baselines if runs.get(name)},
            lambda arm: float(np.mean([run.value(claim.metric) for run in runs[arm]])),
        ),
    }
    if len(parts) > 1:
        found["parts"] = parts
    shown = _not_testable(claim, runs)
    if shown is not None:
        found |= {"interval_verdict": found["verdict"], "verdict": NOT_TESTABLE, **shown}
    return against_published(found, claim.published) if claim.published else found


def against_published(found: Mapping[str, Any], published: Sequence[float]) -> dict[str, Any]:
    """A judged claim beside an effect of the paper's relative size.

    That effect is (left / right - 1) of the published values times the right side's mean here.
    Where
    the interval holds both it and no effect, and reaches at least as far to either side as it is
    large, "not shown" would only say that seeds and items are few: the claim is not testable here.

    Args:
        found: of `judge`, with one difference.
        published: the paper's values of the left and of the right side.

    Returns:
        The same with `published`: values, effect, and whether the interval excludes it.
    """
    effect = (published[0] / published[1] - 1) * found["here"][1]
    own: dict[str, Any] = {"values": list(published), "effect": effect}
    if found["interval"] is None:
        return {**found, "published": own}
    low, high = found["interval"]
    own["excluded"] = not low <= effect <= high
    told = {**found, "published": own}
    if found["verdict"] != "not shown" or own["excluded"] or (high - low) / 2 < abs(effect):
        return told
    return {**told, "interval_verdict": found["verdict"], "verdict": NOT_TESTABLE}


def comparable(
    claim: Claim, runs: Mapping[str, Sequence[PlannedRun]]
) -> tuple[dict[str, list[Scores]], str]:
    """Scores of a claim's arms, with items where all of them saved the same, and what is drawn."""
    for run in (run for arm in claim.arms for run in runs[arm]):
        run.value(claim.metric)
    saved = {arm: scores(runs[arm], claim.metric) for arm in claim.arms}
    found = {arm: sets for arm, sets in saved.items() if sets}
    if len(found) == len(saved) and len({_items(sets) for sets in found.values()}) == 1:
        several = max(s.num_seeds for sets in found.values() for s in sets) > 1
        return found, "seeds x test items" if several else "test items, one seed"
    values = {
        arm: [Scores(np.array([[run.value(claim.metric)] for run in runs[arm]]))]
        for arm in claim.arms
    }
    if max(s[0].num_seeds for s in values.values()) < 2:
        return values, ""
    missing = [arm for arm in saved if arm not in found]
    why = f"{', '.join(missing)} saved no items" if missing else "the arms' items differ"
    return values, f"seeds only: {why}"


def _items(sets: Sequence[Scores]) -> tuple[Any, ...]:
    """What two arms must have in common to be paired by item."""
    return tuple((s.num_items, None if s.gold is None else s.gold.tobytes()) for s in sets)


def _part(
    claim: Claim, index: int, point: Mapping[str, float], samples: Mapping[str, Floats] | None
) -> dict[str, Any]:
    part, sign = claim.parts[index], claim.signs[index]
    left, right = (float(evaluate(node, point)) for node in (part.left, part.right))
    found: dict[str, Any] = {
        "claim": f"{part.text[0]} {'>' if sign > 0 else '<'} {part.text[1]}",
        "difference": left - right,
        "interval": None,
        "here": [left, right],
        "verdict": "not shown",
        "slack": sign * (left - right) - claim.threshold,
    }
    if samples is not None:
        drawn = evaluate(part.left, samples) - evaluate(part.right, samples)
        low, high = difference_interval(sign * drawn)
        interval = Interval(sign * (left - right), low, high, CONFIDENCE)
        found["interval"] = sorted((sign * low, sign * high))
        found["verdict"] = verdict(interval, max(-claim.threshold, 0.0), max(claim.threshold, 0.0))
        found["slack"] = low - claim.threshold
    return found


def difference_interval(samples: Floats) -> tuple[float, float]:
    """Percentile interval of bootstrap samples."""
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def below_baselines(
    claim: Claim,
    spec: Comparison,
    baselines: Mapping[str, Mapping[str, Any]],
    mean: Callable[[str], float],
) -> list[dict[str, Any]]:
    """The claim's methods that the best baseline without training beats, bounds apart.

    Args:
        claim: with its metric.
        spec: the comparison.
        baselines: metrics of each that has run.
        mean: of the claim's metric over an arm's seeds.
    """
    sign = 1.0 if claim.maximise else -1.0
    known = {name: m for name, m in baselines.items() if name not in spec.bounds}
    values = {name: m[claim.metric] for name, m in known.items() if m.get(claim.metric) is not None}
    if not values:
        return []
    best = max(values, key=lambda name: sign * values[name])
    methods = [a for p in claim.parts for a in favoured(p.left) if a not in spec.baselines]
    return [
        {"arm": arm, "value": mean(arm), "baseline": best, "baseline_value": values[best]}
        for arm in dict.fromkeys(methods)
        if sign * mean(arm) < sign * values[best]
    ]


def _not_testable(claim: Claim, runs: Mapping[str, Sequence[PlannedRun]]) -> dict[str, Any] | None:
    note = claim.not_testable
    if note is None:
        return None
    measured = {}
    for arm in note.difference or claim.arms:
        values = [run.metrics().get(note.metric) for run in runs[arm]]
        if None not in values:
            measured[arm] = float(np.mean([v for v in values if v is not None]))
    if not measured or len(measured) < len(note.difference):
        known = runs[claim.arms[0]][0].metrics()
        raise UserError(
            f"claim '{claim.text}': not_testable: no metric '{note.metric}'"
            f"{nearest(note.metric, known)}"
        )
    found = float(np.mean(list(measured.values())))
    if note.difference:
        found = measured[note.difference[0]] - measured[note.difference[1]]
    if (note.below is not None and found >= note.below) or (
        note.above is not None and found <= note.above
    ):
        return None
    return {"reason": note.reason, "measured": {note.metric: measured}}


def entry_of(project: str, spec: Comparison, members: Sequence[PlannedRun]) -> dict[str, Any]:
    """A row of a result's table: an arm's runs in the order of their seeds, or a baseline's one."""
    metrics = [run.metrics() for run in members]
    metas = [run.meta() for run in members]
    one = members[0]
    entry = {
        "metrics": {k: [m.get(k) for m in metrics] for k in metrics[0]},
        "config_hash": one.config_hash,
        "wall_seconds": [m.get("wall_seconds") for m in metas],
    }
    if one.is_baseline:
        return entry
    if spec.metric not in metrics[0]:
        raise UserError(f"{project}: no metric '{spec.metric}'{nearest(spec.metric, metrics[0])}")
    values = [run.value(spec.metric) for run in members]
    return {
        "values": values,
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
        **entry,
        "overrides": spec.arms[one.arm],
        "num_steps": metas[0].get("num_steps"),
        "stage_steps": one.stage_steps(),
        "parameters": metas[0].get("parameters"),
    }


def design_commit(project: str, base: str) -> dict[str, Any]:
    """Last commit of compare.yaml and the base config, and whether they differ from it."""
    files = [str(CONFIG_DIR / project / "compare.yaml"), str(config_path(project, base))]

    # there the oldest commit at hand seems to have written every file
    shallow = git("rev-parse", "--is-shallow-repository") != "false"
    return {
        "design_commit": (not shallow and git("log", "-1", "--format=%H", "--", *files)) or None,
        "design_dirty": bool(git("status", "--porcelain", "--", *files)),
    }


def git(*words: str) -> str:
    """What a git command says of the repository; empty if it fails, or there is no git."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
