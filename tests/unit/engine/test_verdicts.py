"""Verdicts: every kind of claim with its negative twin, intervals, premises, published effects."""

import numpy as np
import pytest

import projects.dcl.claims as functions
from common.config import UserError
from common.engine.comparison.claims import claims_of
from common.engine.comparison.judge import judge
from common.engine.comparison.values import values_of
from common.evaluation import resampling
from tests.unit.engine.comparison_runs import claim_entry, claim_of, result_of, runs_of, spec_of


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """Enough for the verdicts here, at a thirtieth of the time."""
    monkeypatch.setattr(resampling, "MEAN_SAMPLES", 300)
    monkeypatch.setattr(resampling, "RANK_SAMPLES", 100)


LOW, MIDDLE, HIGH = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.5, 0.6, 0.7]


@pytest.mark.parametrize(
    ("a", "b", "verdict", "difference"),
    [
        (HIGH, MIDDLE, "supported", 0.1),
        ([0.5, 0.4, 0.7], MIDDLE, "not shown", 0.1 / 3),
        (LOW, MIDDLE, "contradicted", -0.3),
    ],
)
def test_verdicts_follow_the_paired_differences(tmp_path, a, b, verdict, difference):
    claim = claim_of(tmp_path, {"a": a, "b": b}, "a > b")
    assert claim["verdict"] == verdict
    assert claim["difference"] == pytest.approx(difference)
    assert (claim["left"], claim["right"]) == pytest.approx((np.mean(a), np.mean(b)))


def test_where_less_is_better_the_direction_turns(tmp_path):
    claim = claim_of(tmp_path, {"a": LOW, "b": MIDDLE}, "a > b", direction="min")
    assert (claim["claim"], claim["verdict"]) == ("a < b", "supported")
    assert claim["difference"] == pytest.approx(-0.3)
    assert claim["interval"][0] <= claim["difference"] <= claim["interval"][1]
    less = claim_entry("a > b", direction="min")
    assert claim_of(tmp_path / "2", {"a": LOW, "b": MIDDLE}, less)["verdict"] == "supported"
    assert claim_of(tmp_path / "3", {"a": HIGH, "b": MIDDLE}, less)["verdict"] == "contradicted"


@pytest.mark.parametrize(
    ("option", "verdict", "text"),
    [
        ({"at_least": 0.05}, "supported", "a > b by at least 0.05"),
        ({"at_least": 0.15}, "contradicted", "a > b by at least 0.15"),
        ({}, "supported", "a > b"),
    ],
)
def test_better_by_at_least(tmp_path, option, verdict, text):
    claim = claim_of(tmp_path, {"a": HIGH, "b": MIDDLE}, claim_entry("a > b", **option))
    assert (claim["verdict"], claim["claim"]) == (verdict, text)


@pytest.mark.parametrize(("at_least", "verdict"), [(0.05, "supported"), (0.15, "contradicted")])
def test_at_least_counts_in_the_direction_of_the_claim(tmp_path, at_least, verdict):
    """Ten points less leak: a difference of -0.1 shows five points, not fifteen."""
    entry = claim_entry("a > b", direction="min", at_least=at_least)
    assert claim_of(tmp_path, {"a": MIDDLE, "b": HIGH}, entry)["verdict"] == verdict


def test_a_margin_allows_to_be_worse(tmp_path):
    values = {"a": MIDDLE, "b": HIGH}
    allowed = claim_of(tmp_path / "1", values, claim_entry("a > b", margin=0.15))
    assert (allowed["verdict"], allowed["claim"]) == ("supported", "a > b - 0.15")
    strict = claim_of(tmp_path / "2", values, claim_entry("a > b", margin=0.05))
    assert strict["verdict"] == "contradicted"
    with pytest.raises(UserError, match="exclude each other"):
        claim_of(tmp_path / "3", values, claim_entry("a > b", margin=0.05, at_least=0.1))


def test_a_claim_is_judged_by_its_own_metric(tmp_path):
    values = {"a": LOW, "b": MIDDLE}
    entry = claim_entry("a > b", metric="other", margin=0.01)  # 1.0 in both arms
    claim = claim_of(tmp_path / "1", values, entry)
    assert (claim["verdict"], claim["metric"]) == ("supported", "other")
    assert claim["claim"] == "a > b in other - 0.01"
    other = claim_of(tmp_path / "2", values, claim_entry("a > b", metric="other"))
    assert other["verdict"] == "not shown"
    assert claim_of(tmp_path / "3", values, "a > b")["verdict"] == "contradicted"
    with pytest.raises(UserError, match="no metric 'othr'; did you mean 'other'"):
        claim_of(tmp_path / "4", values, claim_entry("a > b", metric="othr"))


def test_better_than_each_of_several_arms_and_numbers(tmp_path):
    values = {"a": HIGH, "b": MIDDLE, "c": [0.3, 0.7, 0.6], "d": [0.9, 0.9, 0.9]}
    claim = claim_of(tmp_path / "1", values, {"left": "a", "right": ["b", 0.35]})
    assert (claim["claim"], claim["verdict"]) == ("a > b and a > 0.35", "supported")
    assert [part["verdict"] for part in claim["parts"]] == ["supported"] * 2
    half = claim_of(tmp_path / "2", values, {"left": "a", "right": ["b", "c"]})
    assert [part["verdict"] for part in half["parts"]] == ["supported", "not shown"]
    assert half["verdict"] == "not shown"
    assert half["difference"] == pytest.approx(0.2 / 3)  # of the weakest part
    worse = claim_of(tmp_path / "3", values, {"left": "a", "right": ["b", "d"]})
    assert worse["verdict"] == "contradicted"
    above = claim_of(tmp_path / "4", values, {"left": "a", "right": 0.8})
    assert (above["verdict"], "parts" in above) == ("contradicted", False)


def test_a_function_makes_the_sides_and_its_differences_are_paired(tmp_path, monkeypatch):
    """Both methods gain in every seed; what is judged is which gains more."""

    def gains(values):
        return values["both"] - values["raw"], values["random_both"] - values["random"]

    monkeypatch.setattr(functions, "gains", gains, raising=False)
    raw, random = np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.8, 0.2])
    entry = {"left": ["both"], "right": ["raw", "random_both", "random"]}
    entry |= {"function": "gains", "text": "gain of both > gain of random_both"}

    def judged(folder, gain, random_gain):
        values = {
            "raw": raw,
            "random": random,
            "both": raw + gain,
            "random_both": random + random_gain,
        }
        return claim_of(tmp_path / folder, {k: list(v) for k, v in values.items()}, entry)

    claim = judged("1", 0.2, 0.1)
    assert (claim["claim"], claim["verdict"]) == (entry["text"], "supported")
    assert claim["interval"] == pytest.approx([0.1, 0.1])
    assert judged("2", 0.1, 0.2)["verdict"] == "contradicted"


def test_a_function_may_ask_for_several_parts(tmp_path, monkeypatch):
    """Two methods that are equal up to a margin, and two that are not."""

    def equal(values):
        return {"a > b - 0.2": (values["a"], values["b"] - 0.2), "a < 0.8": (0.8, values["a"])}

    monkeypatch.setattr(functions, "equal", equal, raising=False)
    entry = {"left": ["a", "b"], "right": [], "function": "equal", "text": "a and b are equal"}
    near = claim_of(tmp_path / "1", {"a": MIDDLE, "b": HIGH}, entry)
    assert near["verdict"] == "supported"
    assert [part["claim"] for part in near["parts"]] == ["a > b - 0.2", "a < 0.8"]
    assert claim_of(tmp_path / "2", {"a": LOW, "b": HIGH}, entry)["verdict"] == "contradicted"


RATES = {
    "dcl@lr1": [0.5, 0.6, 0.7],
    "dcl@lr2": [0.45, 0.55, 0.65],
    "infonce@lr1": [0.5, 0.6, 0.7],
    "infonce@lr2": [0.1, 0.2, 0.3],
}


def over_rates(function, direction, left="dcl", right="infonce"):
    sides = {"left": [f"{left}@lr1", f"{left}@lr2"], "right": [f"{right}@lr1", f"{right}@lr2"]}
    return sides | {"function": function, "text": function, "direction": direction}


def test_the_mean_over_a_factor_is_judged_not_its_levels(tmp_path):
    values = RATES | {"dcl@lr1": [0.7, 0.8, 0.9], "dcl@lr2": LOW}
    claim = claim_of(tmp_path / "1", values, over_rates("means", "max"))
    assert claim["verdict"] == "supported"
    assert claim["difference"] == pytest.approx(0.1)
    worse = values | {"dcl@lr2": [-0.5, -0.4, -0.3]}
    assert claim_of(tmp_path / "2", worse, over_rates("means", "max"))["verdict"] == "contradicted"


def test_the_spread_over_a_factor_is_less_whatever_the_metric(tmp_path):
    entry = over_rates("spreads", "min")
    claim = claim_of(tmp_path / "1", RATES, entry, baselines={"weak": 0.0, "strong": 0.6})
    assert claim["verdict"] == "supported"
    assert (claim["left"], claim["right"]) == pytest.approx((0.05, 0.4))
    # the metric's direction is still max: 0.55 is worse than 0.6, and 0.6 is not
    assert [(low["arm"], low["baseline"]) for low in claim["below"]] == [("dcl@lr2", "strong")]
    turned = RATES | {"dcl@lr2": LOW, "infonce@lr2": RATES["dcl@lr2"]}
    assert claim_of(tmp_path / "2", turned, entry)["verdict"] == "contradicted"


def test_items_are_resampled_with_the_seeds(tmp_path):
    values = {"a": [0.5] * 3, "b": [0.4] * 3}
    items = {"a": {"score": [1.0, 0.0] * 20}, "b": {"score": [0.0, 1.0] * 20}}
    claim = claim_of(tmp_path / "1", values, "a > b", items=items)
    assert claim["resampled"] == "seeds and test items"
    assert claim["verdict"] == "not shown"  # the items disagree, the means do not
    missing = claim_of(tmp_path / "2", values, "a > b", items={"a": items["a"]})
    assert missing["resampled"] == "seeds only: b saved no items"
    assert missing["verdict"] == "supported"
    other = {"a": items["a"], "b": {"score": [1.0, 0.0]}}
    claim = claim_of(tmp_path / "3", values, "a > b", items=other)
    assert claim["resampled"] == "seeds only: the arms' items differ"


def test_rank_correlations_and_averages_over_sets(tmp_path):
    rng = np.random.default_rng(1)
    gold = rng.normal(size=60)

    def ranked(noise):
        return {"predicted": (gold + noise * rng.normal(size=60)).tolist(), "gold": gold.tolist()}

    def saved(noise):
        return {"one": ranked(noise), "two": [1.0, 0.0] * 10, "score": {"mean_of": ["one", "two"]}}

    values = {"a": [0.9, 0.9], "b": [0.5, 0.5]}
    items = {"a": saved(0.3), "b": saved(3.0)}
    claim = claim_of(tmp_path / "1", values, "a > b", items=items)
    assert (claim["resampled"], claim["verdict"]) == ("seeds and test items", "supported")
    del items["b"]["two"]
    claim = claim_of(tmp_path / "2", values, "a > b", items=items)
    assert claim["resampled"] == "seeds only: b saved no items"


def test_one_seed_without_items_gives_no_interval(tmp_path):
    claim = claim_of(tmp_path, {"a": [0.5], "b": [0.4]}, "a > b")
    assert (claim["interval"], claim["verdict"]) == (None, "not shown")
    assert "one seed and no items" in claim["resampled"]


def test_a_method_below_its_best_baseline_is_marked(tmp_path):
    values, claim = {"a": HIGH, "b": MIDDLE}, "a > b"
    below = claim_of(tmp_path / "1", values, claim, baselines={"overlap": 0.65, "copy": 0.2})
    assert [(low["arm"], low["baseline"]) for low in below["below"]] == [("a", "overlap")]
    weak = claim_of(tmp_path / "2", values, claim, baselines={"overlap": 0.55})
    assert weak["below"] == []
    less = claim_of(tmp_path / "3", values, claim, baselines={"copy": 0.3}, direction="min")
    assert [low["baseline"] for low in less["below"]] == ["copy"]
    absent = claim_entry("a > b", metric="own")
    metrics = {arm: {"own": 0.0} for arm in values}
    judged = claim_of(tmp_path / "4", values, absent, baselines={"overlap": 0.65}, metrics=metrics)
    assert judged["below"] == []  # the baseline doesn't have the claim's metric


def test_a_bound_is_no_baseline_to_beat(tmp_path):
    baselines = {"overlap": 0.65, "oracle": 0.9}
    options = {"baselines": baselines, "bounds": ["oracle"]}
    claim = claim_of(tmp_path, {"a": HIGH, "b": MIDDLE}, "a > b", **options)
    assert [(low["arm"], low["baseline"]) for low in claim["below"]] == [("a", "overlap")]


def test_baselines_can_be_claimed_against(tmp_path):
    values = {"a": HIGH}
    good = claim_of(tmp_path / "1", values, "a > overlap", baselines={"overlap": 0.45})
    assert (good["verdict"], good["below"]) == ("supported", [])
    bad = claim_of(tmp_path / "2", values, "a > overlap", baselines={"overlap": 0.75})
    assert bad["verdict"] == "contradicted"
    assert [low["baseline"] for low in bad["below"]] == ["overlap"]


def test_what_is_not_testable_says_what_was_measured(tmp_path):
    values = {"a": LOW, "b": MIDDLE}
    note = {"reason": "the queue holds one batch", "metric": "other"}
    claim = claim_of(tmp_path / "1", values, claim_entry("a > b", not_testable=note))
    assert (claim["verdict"], claim["interval_verdict"]) == ("not testable here", "contradicted")
    assert claim["measured"] == {"other": {"a": 1.0, "b": 1.0}}
    for bound, verdict in (
        ({"below": 2.0}, "not testable here"),
        ({"below": 0.5}, "contradicted"),
        ({"above": 2.0}, "contradicted"),
    ):
        entry = claim_entry("a > b", not_testable={**note, **bound})
        assert claim_of(tmp_path / f"{bound}", values, entry)["verdict"] == verdict
    with pytest.raises(UserError, match="did you mean 'other'"):
        claim_of(
            tmp_path / "2", values, claim_entry("a > b", not_testable={**note, "metric": "othr"})
        )


LOST = {"reason": "nothing is lost", "metric": "score"}


@pytest.mark.parametrize(
    ("difference", "bound", "verdict"),
    [
        (["a", "b"], 0.2, "not testable here"),
        (["a", "b"], 0.05, "contradicted"),
        (["b", "a"], 0.05, "not testable here"),
    ],
)
def test_a_premise_is_the_difference_of_two_arms(tmp_path, difference, bound, verdict):
    """A claim on a loss that must be there first: b loses .1 to a, and a loses nothing to b."""
    note = {**LOST, "difference": difference, "below": bound}
    values = {"a": HIGH, "b": MIDDLE, "c": LOW}
    claim = claim_of(tmp_path, values, claim_entry("c > b", not_testable=note))
    assert claim["verdict"] == verdict
    if verdict == "not testable here":
        assert claim["measured"] == {"score": pytest.approx({"a": 0.6, "b": 0.5})}


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        (["b", "B"], "no arm 'B'"),
        (["a"], "names two arms"),
        (["a", "b"], "does not run by default"),
    ],
)
def test_a_premise_of_arms_that_do_not_run_is_refused(tmp_path, difference, message):
    entry = claim_entry("c > b", not_testable={**LOST, "difference": difference})
    values = {"a": HIGH, "b": MIDDLE, "c": LOW}
    with pytest.raises(UserError, match=message):
        claim_of(tmp_path, values, entry, default_arms=["b", "c"])


@pytest.mark.parametrize(
    ("a", "published", "verdict", "excluded"),
    [
        # the interval of [.5 .4 .7] less [.4 .5 .6] is [-.1, .1]
        ([0.5, 0.4, 0.7], [11, 10], "not testable here", False),
        # [-.05, .2] holds .15 and none, but resolves .125 to either side
        ([0.35, 0.6, 0.8], [1.3, 1], "not shown", False),
        ([0.5, 0.4, 0.7], [2, 1], "not shown", True),
        ([0.45, 0.6, 0.75], [1.2, 1], "supported", False),  # [.05, .15]
        (LOW, [11, 10], "contradicted", True),
    ],
)
def test_an_effect_of_the_paper_s_size_tells_not_shown_from_not_testable(
    tmp_path, a, published, verdict, excluded
):
    """Only where the interval holds none as well as the paper's effect, and is wider than it."""
    claim = claim_of(tmp_path, {"a": a, "b": MIDDLE}, claim_entry("a > b", published=published))
    assert (claim["verdict"], claim["published"]["excluded"]) == (verdict, excluded)
    effect = (published[0] / published[1] - 1) * 0.5
    assert claim["published"]["effect"] == pytest.approx(effect)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"left": "a", "right": "b", "published": [1, 2]}, "do not show what it says"),
        ({"left": "a", "right": "b", "published": [2]}, "published: two values"),
        ({"left": "a", "right": ["b", 1], "published": [2, 1]}, "one difference in one metric"),
    ],
)
def test_published_values_fit_their_claim(tmp_path, entry, words):
    with pytest.raises((UserError, ValueError), match=words):
        claim_of(tmp_path, {"a": HIGH, "b": MIDDLE}, entry)


@pytest.mark.parametrize(
    ("cost", "verdict"), [(LOW, "supported"), (HIGH, "contradicted"), (MIDDLE, "not shown")]
)
def test_a_claim_in_two_metrics_has_one_verdict(tmp_path, cost, verdict):
    """Higher score and lower cost: b's cost is the middle one."""
    values = {"a": HIGH, "b": LOW, "c": LOW}
    costs = {"a": cost, "b": MIDDLE, "c": MIDDLE}
    runs = runs_of(tmp_path, values)
    for run in runs:
        metrics = run.metrics() | {"cost": costs[run.arm][run.seed]}
        run.metrics = lambda metrics=metrics: metrics
    spec = spec_of(values, [{"left": "a", "right": ["b", "c"], "and_in": {"cost": "min"}}])
    (claim,) = claims_of(spec)
    assert claim.text == "a > b and a > c and in cost"
    arms = {arm: values_of([run for run in runs if run.arm == arm], []) for arm in values}
    judged = judge(claim, spec, arms)
    assert judged["verdict"] == verdict
    assert [part["claim"] for part in judged["parts"]] == [
        "a > b",
        "a > c",
        "a < b in cost",
        "a < c in cost",
    ]
    assert judged["left"] == pytest.approx(float(np.mean(HIGH)))
    with pytest.raises(UserError, match="max or min"):
        claims_of(spec_of("ab", [claim_entry("a > b", and_in={"cost": "less"})]))


def test_claims_of_the_appendix_are_judged_and_not_counted(tmp_path):
    values = {"a": HIGH, "b": MIDDLE, "c": LOW}
    options = {"default_arms": ["a", "b"], "appendix": ["b > a", "a > c"]}
    usual = {arm: values[arm] for arm in "ab"}
    result = result_of(tmp_path / "usual", usual, ["a > b"], appendix=["b > a"])
    assert [c["claim"] for c in result["claims"]] == ["a > b"]
    assert [(c["claim"], c["verdict"]) for c in result["appendix"]] == [("b > a", "contradicted")]
    whole = result_of(tmp_path / "whole", values, ["a > b"], **options)
    assert [c["claim"] for c in whole["appendix"]] == ["b > a", "a > c"]


def test_an_undefined_baseline_is_none_to_beat_and_an_undefined_item_is_an_error(tmp_path):
    values = {"a": [0.5, 0.6], "b": [0.4, 0.5]}
    result = result_of(tmp_path / "1", values, ["a > b"], baselines={"chance": None})
    assert result["claims"][0]["below"] == []
    items = {"a": {"score": [0.5, float("nan")]}, "b": {"score": [0.5, 0.1]}}
    with pytest.raises(UserError, match="c0ffee00: an item of 'score' is undefined"):
        result_of(tmp_path / "2", values, ["a > b"], items=items)
    with pytest.raises(UserError, match="'score' is undefined in the run with seed 1"):
        result_of(tmp_path / "3", {"a": [0.5, None], "b": [0.4, 0.5]}, ["a > b"])
