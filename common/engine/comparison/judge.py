"""Differences, intervals and verdicts of claims, from the values of the arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.config import UserError, nearest
from common.engine.comparison.claims import Claim
from common.engine.comparison.schema import Comparison
from common.engine.comparison.values import ArmValues
from common.evaluation.resampling import Floats, Scores, resample
from common.evaluation.statistics import Interval, verdict

CONFIDENCE = 0.95
NOT_TESTABLE = "not testable here"


def judge(claim: Claim, spec: Comparison, arms: Mapping[str, ArmValues]) -> dict[str, Any]:
    """A claim's differences, intervals and verdict.

    Args:
        claim: its arms have run.
        spec: the comparison.
        arms: values of its arms and baselines.

    Returns:
        ``claim``, ``metric``, ``left`` and ``right`` (means here), ``difference``, ``interval``
        (None without one), ``resampled`` (what is drawn), ``verdict``, ``paper``, ``below`` (see
        `below_baselines`), options of the claim, and where there are any ``parts``,
        ``published``, or ``reason``, ``measured`` and ``interval_verdict`` of a claim that is not
        testable. Of several parts the numbers are the weakest one's.

    Raises:
        UserError: an arm has no such metric.
    """
    result = _judge(claim, spec, arms)
    for other in claim.others:
        result = _both(result, _judge(other, spec, arms))
    return result


def _both(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """One verdict for a claim in two metrics: the numbers are the first's, the parts those of both."""
    words = (first["verdict"], second["verdict"])
    worst = next(
        (w for w in (NOT_TESTABLE, "contradicted", "not shown") if w in words), "supported"
    )
    parts = [*first.get("parts", [_as_part(first)])]
    for part in second.get("parts", [_as_part(second)]):
        name = "" if second["metric"] in part["claim"].split() else f" in {second['metric']}"
        parts.append({**part, "claim": part["claim"] + name})
    return {**first, "verdict": worst, "parts": parts, "below": [*first["below"], *second["below"]]}


def _as_part(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: result[key] for key in ("claim", "left", "right", "difference", "interval", "verdict")
    }


def _judge(claim: Claim, spec: Comparison, arms: Mapping[str, ArmValues]) -> dict[str, Any]:
    scores, unit = comparable(claim, arms)
    means, samples = resample(scores) if unit else ({}, None)
    if samples is None:
        means = {arm: arms[arm].mean(claim.metric) for arm in claim.arms}
    parts = _parts(claim, means, samples)
    verdicts = [part["verdict"] for part in parts]
    weakest = min(parts, key=lambda part: part.pop("slack"))
    word = "contradicted" if "contradicted" in verdicts else "not shown"
    result: dict[str, Any] = {
        **weakest,
        "claim": claim.text,
        "verdict": "supported" if set(verdicts) == {"supported"} else word,
        "resampled": unit or "nothing: one seed and no items, which gives no interval",
        "metric": claim.metric,
        **claim.options,
        "paper": claim.paper,
        "below": below_baselines(claim, spec, arms),
    }
    if len(parts) > 1:
        result["parts"] = parts
    untestable = _not_testable(claim, arms)
    if untestable is not None:
        result |= {"interval_verdict": result["verdict"], "verdict": NOT_TESTABLE, **untestable}
    return against_published(result, claim.published) if claim.published else result


def against_published(result: Mapping[str, Any], published: Sequence[float]) -> dict[str, Any]:
    """A judged claim next to an effect of the paper's relative size.

    That effect is (left / right - 1) of the published values times the right side's mean here.
    Where the interval holds both it and no effect, and reaches at least as far to either side as
    it is large, "not shown" would only say that seeds and items are few: the claim is not testable
    here.

    Args:
        result: of `judge`, with one difference.
        published: the paper's values of the left and of the right side.

    Returns:
        The same with `published`: values, effect, and whether the interval excludes it.
    """
    effect = (published[0] / published[1] - 1) * result["right"]
    entry: dict[str, Any] = {"values": list(published), "effect": effect}
    if result["interval"] is None:
        return {**result, "published": entry}
    low, high = result["interval"]
    entry["excluded"] = not low <= effect <= high
    judged = {**result, "published": entry}
    if result["verdict"] != "not shown" or entry["excluded"] or (high - low) / 2 < abs(effect):
        return judged
    return {**judged, "interval_verdict": result["verdict"], "verdict": NOT_TESTABLE}


def comparable(claim: Claim, arms: Mapping[str, ArmValues]) -> tuple[dict[str, list[Scores]], str]:
    """Scores of a claim's arms, with items where all of them have the same, and what is drawn."""
    values = {arm: [Scores(np.array(arms[arm].of(claim.metric))[:, None])] for arm in claim.arms}
    with_items = {arm: arms[arm].scores(claim.metric) for arm in claim.arms}
    complete = {arm: sets for arm, sets in with_items.items() if sets}
    if len(complete) == len(values) and len({_items(sets) for sets in complete.values()}) == 1:
        several = max(s.num_seeds for sets in complete.values() for s in sets) > 1
        return complete, "seeds and test items" if several else "test items, one seed"
    if max(sets[0].num_seeds for sets in values.values()) < 2:
        return values, ""
    missing = [arm for arm in values if arm not in complete]
    why = f"{', '.join(missing)} saved no items" if missing else "the arms' items differ"
    return values, f"seeds only: {why}"


def _items(sets: Sequence[Scores]) -> tuple[Any, ...]:
    """What two arms must have in common to be paired by item."""
    return tuple((s.num_items, None if s.gold is None else s.gold.tobytes()) for s in sets)


def _parts(
    claim: Claim, means: Mapping[str, float], samples: Mapping[str, Floats] | None
) -> list[dict[str, Any]]:
    resampled = None if samples is None else claim.parts(samples)
    parts = []
    for text, sides in claim.parts(means).items():
        left, right = map(float, sides)
        part: dict[str, Any] = {
            "claim": text,
            "left": left,
            "right": right,
            "difference": left - right,
            "interval": None,
            "verdict": "not shown",
            "slack": claim.sign * (left - right) - claim.threshold,
        }
        if resampled is not None:
            differences = claim.sign * (resampled[text][0] - resampled[text][1])
            low, high = difference_interval(differences)
            interval = Interval(claim.sign * (left - right), low, high, CONFIDENCE)
            part["interval"] = sorted((claim.sign * low, claim.sign * high))
            part["verdict"] = verdict(
                interval, max(-claim.threshold, 0.0), max(claim.threshold, 0.0)
            )
            part["slack"] = low - claim.threshold
        parts.append(part)
    return parts


def difference_interval(samples: Floats) -> tuple[float, float]:
    """Percentile interval of bootstrap samples."""
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def below_baselines(
    claim: Claim, spec: Comparison, arms: Mapping[str, ArmValues]
) -> list[dict[str, Any]]:
    """The claim's methods that are worse than the best training-free baseline, bounds apart."""
    better = 1.0 if claim.maximise else -1.0
    baselines = {
        name: arms[name].metrics[claim.metric][0]
        for name in spec.baselines
        if name in arms and name not in spec.bounds and claim.metric in arms[name].metrics
    }
    values = {name: value for name, value in baselines.items() if value is not None}
    if not values:
        return []
    best = max(values, key=lambda name: better * values[name])
    methods = [arm for arm in claim.left if arm not in spec.baselines]
    means = {arm: arms[arm].mean(claim.metric) for arm in dict.fromkeys(methods)}
    reference = {"metric": claim.metric, "baseline": best, "baseline_value": values[best]}
    return [
        {"arm": arm, "value": mean, **reference}
        for arm, mean in means.items()
        if better * mean < better * values[best]
    ]


def _not_testable(claim: Claim, arms: Mapping[str, ArmValues]) -> dict[str, Any] | None:
    premise = claim.not_testable
    if premise is None:
        return None
    measured = {}
    for arm in premise.difference or claim.arms:
        values = arms[arm].metrics.get(premise.metric, [None])
        if None not in values:
            measured[arm] = float(np.mean([v for v in values if v is not None]))
    if not measured or len(measured) < len(premise.difference):
        names = arms[claim.arms[0]].metrics
        raise UserError(
            f"claim '{claim.text}': not_testable: no metric '{premise.metric}'"
            f"{nearest(premise.metric, names)}"
        )
    mean = float(np.mean(list(measured.values())))
    if premise.difference:
        mean = measured[premise.difference[0]] - measured[premise.difference[1]]
    if (premise.below is not None and mean >= premise.below) or (
        premise.above is not None and mean <= premise.above
    ):
        return None
    return {"reason": premise.reason, "measured": {premise.metric: measured}}
