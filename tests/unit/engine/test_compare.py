"""Comparisons: every kind of claim with its negative twin, and what is published."""

import json

import numpy as np
import pytest

from common.config import UserError
from common.engine.comparison import compare, results
from common.engine.comparison import judge as judge_module
from common.engine.comparison.judge import design_commit, judge
from common.engine.comparison.runs import code_of
from common.engine.comparison.schema import Comparison
from common.engine.comparison.spec import claims_of
from common.engine.report.pages import write_report
from common.evaluation import resampling
from tests.unit.engine.comparison_runs import FakeRun, claim_of, result_of


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
    assert claim["here"] == pytest.approx([np.mean(a), np.mean(b)])


def test_where_less_is_better_the_direction_turns(tmp_path):
    claim = claim_of(tmp_path, {"a": LOW, "b": MIDDLE}, "a > b", direction="min")
    assert (claim["claim"], claim["verdict"]) == ("a < b", "supported")
    assert claim["difference"] == pytest.approx(-0.3)
    assert claim["interval"][0] <= claim["difference"] <= claim["interval"][1]
    own = {"claim": "a < b", "direction": "min"}
    assert claim_of(tmp_path / "2", {"a": LOW, "b": MIDDLE}, own)["verdict"] == "supported"
    assert claim_of(tmp_path / "3", {"a": HIGH, "b": MIDDLE}, own)["verdict"] == "contradicted"
    with pytest.raises(UserError, match="more is better here, so write 'b > a'"):
        claim_of(tmp_path / "4", {"a": LOW, "b": MIDDLE}, "a < b")


@pytest.mark.parametrize(
    ("option", "verdict", "text"),
    [
        ({"at_least": 0.05}, "supported", "a > b by at least 0.05"),
        ({"at_least": 0.15}, "contradicted", "a > b by at least 0.15"),
        ({}, "supported", "a > b"),
    ],
)
def test_better_by_at_least(tmp_path, option, verdict, text):
    claim = claim_of(tmp_path, {"a": HIGH, "b": MIDDLE}, {"claim": "a > b", **option})
    assert (claim["verdict"], claim["claim"]) == (verdict, text)


def test_at_least_counts_in_the_direction_of_the_claim(tmp_path):
    """Ten points less leak: a difference of -0.1 shows five points, not fifteen."""
    values = {"a": MIDDLE, "b": HIGH}
    for at_least, verdict in ((0.05, "supported"), (0.15, "contradicted")):
        entry = {"claim": "a > b", "direction": "min", "at_least": at_least}
        claim = claim_of(tmp_path / str(at_least), values, entry)
        assert claim["verdict"] == verdict


def test_a_margin_allows_to_be_worse(tmp_path):
    values = {"a": MIDDLE, "b": HIGH}
    allowed = claim_of(tmp_path / "1", values, {"claim": "a > b", "margin": 0.15})
    assert (allowed["verdict"], allowed["claim"]) == ("supported", "a > b - 0.15")
    strict = claim_of(tmp_path / "2", values, {"claim": "a > b", "margin": 0.05})
    assert strict["verdict"] == "contradicted"
    both = {"claim": "a > b", "margin": 0.05, "at_least": 0.1}
    with pytest.raises(UserError, match="exclude each other"):
        claim_of(tmp_path / "3", values, both)


def test_a_claim_is_judged_by_its_own_metric(tmp_path):
    values = {"a": LOW, "b": MIDDLE}
    claim = claim_of(tmp_path / "1", values, "a > b (other, margin 0.01)")  # 1.0 in both arms
    assert (claim["verdict"], claim["metric"]) == ("supported", "other")
    assert claim["claim"] == "a > b in other - 0.01"
    assert "paired difference of other +0.0000" in results.verdict_line(claim, "score")
    assert claim_of(tmp_path / "2", values, "a > b (other)")["verdict"] == "not shown"
    assert claim_of(tmp_path / "3", values, "a > b")["verdict"] == "contradicted"
    with pytest.raises(UserError, match="no metric 'othr'; did you mean 'other'"):
        claim_of(tmp_path / "4", values, "a > b (othr)")


def test_a_conjunction_needs_all_its_parts(tmp_path):
    values = {"a": HIGH, "b": MIDDLE, "c": [0.3, 0.7, 0.6], "d": [0.9, 0.9, 0.9]}
    claim = claim_of(tmp_path / "1", values, "a > b and b > 0.35")
    assert claim["verdict"] == "supported"
    assert [part["verdict"] for part in claim["parts"]] == ["supported"] * 2
    half = claim_of(tmp_path / "2", values, "a > b and a > c")
    assert half["verdict"] == "not shown"
    assert half["difference"] == pytest.approx(0.2 / 3)  # of the weakest part
    assert claim_of(tmp_path / "3", values, "a > b and a > d")["verdict"] == "contradicted"
    assert "a > c: not shown" in results.verdict_line(half, "score")


def test_a_difference_of_gains_is_paired(tmp_path):
    """Both methods gain in every seed; what is judged is which gains more."""
    raw, random = np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.8, 0.2])
    text = "(both - raw) > (random_both - random)"

    def verdict(folder, gain, random_gain):
        values = {
            "raw": raw,
            "random": random,
            "both": raw + gain,
            "random_both": random + random_gain,
        }
        return claim_of(tmp_path / folder, {k: list(v) for k, v in values.items()}, text)

    claim = verdict("1", 0.2, 0.1)
    assert claim["verdict"] == "supported"
    assert claim["interval"] == pytest.approx([0.1, 0.1])
    assert verdict("2", 0.1, 0.2)["verdict"] == "contradicted"


def test_the_mean_over_a_factor_is_judged_not_its_levels(tmp_path):
    values = {
        "dcl@lr1": [0.5, 0.5, 0.5],
        "dcl@lr2": [0.1, 0.2, 0.3],
        "infonce@lr1": [0.4, 0.3, 0.2],
        "infonce@lr2": [0.1, 0.2, 0.3],
    }
    claim = claim_of(tmp_path / "1", values, "dcl@lr* > infonce@lr*")
    assert claim["verdict"] == "supported"
    assert claim["difference"] == pytest.approx(0.1)
    assert claim["claim"] == "dcl@lr* > infonce@lr*"
    worse = values | {"dcl@lr2": [-0.5, -0.4, -0.3]}
    assert claim_of(tmp_path / "2", worse, "dcl@lr* > infonce@lr*")["verdict"] == "contradicted"
    with pytest.raises(UserError, match="has no level 3"):
        claim_of(tmp_path / "3", {**values, "dcl@lr3": LOW}, "dcl@lr* > infonce@lr*")


def test_the_spread_over_a_factor_is_less_whatever_the_metric(tmp_path):
    values = {
        "dcl@lr1": [0.5, 0.6, 0.7],
        "dcl@lr2": [0.45, 0.55, 0.65],
        "infonce@lr1": [0.5, 0.6, 0.7],
        "infonce@lr2": [0.1, 0.2, 0.3],
    }
    claim = claim_of(tmp_path / "1", values, "spread(dcl@lr*) < spread(infonce@lr*)")
    assert (claim["verdict"], claim["here"]) == ("supported", pytest.approx([0.05, 0.4]))
    turned = claim_of(tmp_path / "2", values, "spread(infonce@lr*) < spread(dcl@lr*)")
    assert turned["verdict"] == "contradicted"


def test_items_are_resampled_with_the_seeds(tmp_path):
    values = {"a": [0.5] * 3, "b": [0.4] * 3}
    items = {"a": {"score": [1.0, 0.0] * 20}, "b": {"score": [0.0, 1.0] * 20}}
    claim = claim_of(tmp_path / "1", values, "a > b", items=items)
    assert claim["resampled"] == "seeds x test items"
    assert claim["verdict"] == "not shown"  # the items disagree, the means do not
    missing = claim_of(tmp_path / "2", values, "a > b", items={"a": items["a"]})
    assert missing["resampled"] == "seeds only: b saved no items"
    assert missing["verdict"] == "supported"
    other = {"a": items["a"], "b": {"score": [1.0, 0.0]}}
    claim = claim_of(tmp_path / "3", values, "a > b", items=other)
    assert claim["resampled"] == "seeds only: the arms' items differ"


def test_a_combination_resamples_items_too(tmp_path):
    """The gains cancel item by item, so there is nothing left to vary."""
    rows = np.random.default_rng(0).normal(size=(4, 30))
    rows[3] = rows[0] - rows[1] + rows[2]  # (a - b) = (d - c)
    items = {arm: {"score": row.tolist()} for arm, row in zip("abcd", rows, strict=True)}
    values = {arm: [float(items[arm]["score"][0])] * 2 for arm in "abcd"}
    claim = claim_of(tmp_path, values, "(a - b) > (d - c) - 0.01", items=items)
    assert claim["resampled"] == "seeds x test items"
    assert claim["interval"] == pytest.approx([0.01, 0.01])


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
    assert (claim["resampled"], claim["verdict"]) == ("seeds x test items", "supported")
    del items["b"]["two"]
    claim = claim_of(tmp_path / "2", values, "a > b", items=items)
    assert claim["resampled"] == "seeds only: b saved no items"


def test_one_seed_without_items_gives_no_interval(tmp_path):
    claim = claim_of(tmp_path, {"a": [0.5], "b": [0.4]}, "a > b")
    assert (claim["interval"], claim["verdict"]) == (None, "not shown")
    assert "one seed and no items" in results.verdict_line(claim, "score")


def test_a_method_below_its_best_baseline_is_marked(tmp_path):
    values, claim = {"a": HIGH, "b": MIDDLE}, "a > b"
    result = result_of(tmp_path / "1", values, [claim], baselines={"overlap": 0.65, "copy": 0.2})
    (found,) = result["claims"]
    assert [(low["arm"], low["baseline"]) for low in found["below"]] == [("a", "overlap")]
    text = results.markdown(result)
    designed = result | {"design_commit": "a" * 40}
    assert "design aaaaaaaaaa with local changes; " in results.markdown(
        designed | {"design_dirty": True}
    )
    assert "design aaaaaaaaaa; " in results.markdown(designed | {"design_dirty": False})
    assert "**a > b: supported, a below overlap (0.6000 against 0.6500)**" in text
    assert "| *overlap* | 0.6500 | 1.0 |" in text
    weak = claim_of(tmp_path / "2", values, claim, baselines={"overlap": 0.55})
    assert weak["below"] == []
    less = claim_of(tmp_path / "3", values, claim, baselines={"copy": 0.3}, direction="min")
    assert [low["baseline"] for low in less["below"]] == ["copy"]
    absent = {"claim": "a > b", "metric": "own"}
    metrics = {arm: {"own": 0.0} for arm in values}
    found = claim_of(tmp_path / "4", values, absent, baselines={"overlap": 0.65}, metrics=metrics)
    assert found["below"] == []  # the baseline doesn't have the claim's metric


def test_a_bound_stands_in_the_table_and_is_none_to_beat(tmp_path):
    values, claim = {"a": HIGH, "b": MIDDLE}, "a > b"
    baselines = {"overlap": 0.65, "oracle": 0.9}
    result = result_of(tmp_path, values, [claim], baselines=baselines, bounds=["oracle"])
    (found,) = result["claims"]
    assert [(low["arm"], low["baseline"]) for low in found["below"]] == [("a", "overlap")]
    assert "| *oracle* | 0.9000 | 1.0 |" in results.markdown(result)


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
    claim = claim_of(tmp_path / "1", values, {"claim": "a > b", "not_testable": note})
    assert (claim["verdict"], claim["interval_verdict"]) == ("not testable here", "contradicted")
    line = results.verdict_line(claim, "score")
    assert "the queue holds one batch: other a 1, b 1" in line
    assert "(by the interval: contradicted)" in line
    for bound, verdict in (
        ({"below": 2.0}, "not testable here"),
        ({"below": 0.5}, "contradicted"),
        ({"above": 2.0}, "contradicted"),
    ):
        entry = {"claim": "a > b", "not_testable": {**note, **bound}}
        folder = tmp_path / f"{bound}"
        assert claim_of(folder, values, entry)["verdict"] == verdict
    wrong = {"claim": "a > b", "not_testable": {**note, "metric": "othr"}}
    with pytest.raises(UserError, match="did you mean 'other'"):
        claim_of(tmp_path / "2", values, wrong)


@pytest.mark.parametrize(
    ("a", "published", "verdict", "words"),
    [
        # the interval of [.5 .4 .7] less [.4 .5 .6] is [-.1, .1]
        ([0.5, 0.4, 0.7], [11, 10], "not testable here", "too small for seeds and items"),
        # [-.05, .2] holds .15 and none, but tells .125 to either side
        ([0.35, 0.6, 0.8], [1.3, 1], "not shown", "would be +0.1500, inside the interval"),
        ([0.5, 0.4, 0.7], [2, 1], "not shown", "would be +0.5000, outside the interval"),
        (HIGH, [1.2, 1], "supported", "would be +0.1000"),
        (LOW, [11, 10], "contradicted", "outside the interval"),
    ],
)
def test_an_effect_of_the_paper_s_size_tells_not_shown_from_not_testable(
    tmp_path, a, published, verdict, words
):
    """Only where the interval holds none as well as the paper's effect, and is wider than it."""
    entry = {"claim": "a > b", "published": published}
    claim = claim_of(tmp_path, {"a": a, "b": MIDDLE}, entry)
    assert claim["verdict"] == verdict
    assert words in results.verdict_line(claim, "score")
    effect = (published[0] / published[1] - 1) * 0.5
    assert claim["published"]["effect"] == pytest.approx(effect)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"claim": "a > b", "published": [1, 2]}, "do not show what it says"),
        ({"claim": "a > b", "published": [2]}, "published: two values"),
        ({"claim": "a > b and b > a", "published": [2, 1]}, "one difference in one metric"),
    ],
)
def test_published_values_fit_their_claim(tmp_path, entry, words):
    with pytest.raises((UserError, ValueError), match=words):
        claim_of(tmp_path, {"a": HIGH, "b": MIDDLE}, entry)


LOST = {"reason": "nothing is lost", "metric": "score"}


def test_a_premise_is_the_difference_of_two_arms(tmp_path):
    """A claim on a loss that must be there first: a lost .1 here, and a loses nothing to a."""
    values = {"a": HIGH, "b": MIDDLE, "c": LOW}
    for difference, bound, verdict in (
        (["a", "b"], 0.2, "not testable here"),
        (["a", "b"], 0.05, "contradicted"),
        (["b", "a"], 0.05, "not testable here"),
    ):
        note = {**LOST, "difference": difference, "below": bound}
        entry = {"claim": "c > b", "not_testable": note}
        claim = claim_of(tmp_path / f"{difference}{bound}", values, entry)
        assert claim["verdict"] == verdict
        if verdict == "not testable here":
            assert claim["measured"] == {"score": pytest.approx({"a": 0.6, "b": 0.5})}


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        (["a", "B"], "no arm 'B'"),
        (["a"], "names two arms"),
        (["a", "b"], "does not run by default"),
    ],
)
def test_a_premise_of_arms_that_do_not_run_is_refused(tmp_path, difference, message):
    entry = {"claim": "c > b", "not_testable": {**LOST, "difference": difference}}
    values = {"a": HIGH, "b": MIDDLE, "c": LOW}
    with pytest.raises(UserError, match=message):
        claim_of(tmp_path, values, entry, default_arms=["b", "c"])


def test_the_paper_stands_beside_our_numbers(tmp_path):
    entry = {"claim": "a > b", "paper": "table 3: 78.27 against 76.25"}
    result = result_of(tmp_path, {"a": HIGH, "b": MIDDLE}, [entry, "b > a"])
    text = results.markdown(result)
    assert "| a > b | 0.6000 against 0.5000 | table 3: 78.27 against 76.25 | supported |" in text
    assert "| b > a | 0.5000 against 0.6000 | not stated | contradicted |" in text
    assert "; paper: table 3: 78.27 against 76.25." in text
    assert "| paper |" not in results.markdown(
        result_of(tmp_path / "2", {"a": HIGH, "b": LOW}, ["a > b"])
    )


def test_arms_that_do_not_run_by_default_stand_in_the_appendix(tmp_path):
    values = {"a": HIGH, "b": MIDDLE, "c": LOW}
    options = {"default_arms": ["a", "b"], "appendix": [{"claim": "a > c"}]}
    result = result_of(tmp_path, values, [{"claim": "a > b"}], **options)
    assert (list(result["arms"]), list(result["appendix"]["arms"])) == (["a", "b"], ["c"])
    assert [c["claim"] for c in result["claims"]] == ["a > b"]
    assert [c["claim"] for c in result["appendix"]["claims"]] == ["a > c"]
    text = results.markdown(result)
    assert text.index("**a > b: supported**") < text.index("Appendix") < text.index("**a > c")


def test_claims_of_the_appendix_on_arms_that_run_anyway_are_judged(tmp_path):
    """They were judged and dropped where no further arm had run; with further arms each stands
    once.
    """
    values = {"a": HIGH, "b": MIDDLE, "c": LOW}
    options = {"default_arms": ["a", "b"], "appendix": [{"claim": "b > a"}, {"claim": "a > c"}]}
    usual = {"a": HIGH, "b": MIDDLE}
    result = result_of(
        tmp_path / "usual", usual, [{"claim": "a > b"}], appendix=[{"claim": "b > a"}]
    )
    assert [c["claim"] for c in result["claims"]] == ["a > b"]
    assert [(c["claim"], c["verdict"]) for c in result["uncounted"]] == [("b > a", "contradicted")]
    assert "appendix" not in result
    text = results.markdown(result)
    assert (
        text.index("**a > b: supported**")
        < text.index("Judged, not counted")
        < text.index("**b > a: contradicted**")
    )
    whole = result_of(tmp_path / "whole", values, [{"claim": "a > b"}], **options)
    assert [c["claim"] for c in whole["uncounted"]] == ["b > a"]
    assert [c["claim"] for c in whole["appendix"]["claims"]] == ["a > c"]


def test_a_metric_of_one_arm_only_is_an_empty_cell_elsewhere(tmp_path):
    values = {"a": [0.5, 0.6], "b": [0.4, 0.5]}
    result = result_of(tmp_path, values, ["a > b"], also=["extra"])
    result["arms"]["a"]["metrics"]["extra"] = [0.25, 0.75]
    rows = results.markdown(result).splitlines()
    assert any(row.startswith("| a |") and "0.5000 +- 0.3536" in row for row in rows)
    assert any(row.startswith("| b |") and row.endswith("|  | 1.0 |") for row in rows)
    with pytest.raises(UserError, match="did you mean 'score'"):
        claim_of(tmp_path / "2", values, {"claim": "a > b", "metric": "scor"})


def test_the_result_names_the_commit_of_its_design():
    found = design_commit("dcl", "mini")
    assert (
        found["design_commit"] is None or len(found["design_commit"]) == 40
    )  # None: a shallow clone


def test_a_comparison_without_git_has_no_design_commit(monkeypatch):
    def run(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(judge_module.subprocess, "run", run)
    assert design_commit("dcl", "mini") == {"design_commit": None, "design_dirty": False}


def test_an_undefined_baseline_is_none_to_beat_and_an_undefined_item_is_named(tmp_path):
    values = {"a": [0.5, 0.6], "b": [0.4, 0.5]}
    result = result_of(tmp_path / "1", values, ["a > b"], baselines={"chance": None})
    assert result["claims"][0]["below"] == []
    results.plot(result, tmp_path / "plot.png")
    items = {"a": {"score": [0.5, float("nan")]}, "b": {"score": [0.5, 0.1]}}
    with pytest.raises(UserError, match="c0ffee00: an item of 'score' is undefined"):
        result_of(tmp_path / "2", values, ["a > b"], items=items)


def test_local_changes_of_any_run_are_told(tmp_path):
    plan = [FakeRun(tmp_path, "a", seed, 0.5) for seed in range(3)]
    assert code_of(plan) == {"commit": "a" * 40, "dirty": False}
    later = plan[2].path / "meta.json"
    later.write_text(json.dumps(json.loads(later.read_text()) | {"dirty": True}))
    assert code_of(plan) == {"commit": "a" * 40, "dirty": True}


def card_of(folder, slug="demo"):
    card = folder / f"projects/{slug}/README.md"
    card.parent.mkdir(parents=True)
    card.write_text("# demo\n<!-- results:begin -->\nnot run\n<!-- results:end -->\nrest\n")
    return card


def test_publishing_writes_result_plot_and_card_and_the_report_shows_them(tmp_path, monkeypatch):
    from common.engine.report import contents, pages

    for module in (results, contents, pages):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    card = card_of(tmp_path)
    values, baselines = {"a": HIGH, "b": MIDDLE}, {"overlap": 0.2}
    result = result_of(tmp_path / "runs", values, ["a > b"], baselines=baselines)
    further = result_of(tmp_path / "more", {"c": LOW, "d": MIDDLE}, ["c > d"], name="second")
    results.publish("demo", {**result, "more": [further]})
    text = card.read_text()
    assert "**a > b: supported**" in text
    assert text.index("**second**") < text.index("**c > d: contradicted**")
    assert "not run" not in text
    assert text.endswith("<!-- results:end -->\nrest\n")
    assert json.loads((tmp_path / "results/demo.json").read_text())["claims"] == result["claims"]
    assert (tmp_path / "results/demo.png").stat().st_size > 1000
    page = write_report(["demo"], tmp_path / "out", tmp_path / "none").read_text()
    assert "a &gt; b: supported" in page
    assert "c &gt; d: contradicted" in page
    card.write_text("# no block")
    with pytest.raises(UserError, match="results:begin"):
        results.publish("demo", result)


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, True),
        ({"arms": ["full"]}, True),
        ({"arms": ["all"]}, True),
        ({"seeds": "3"}, True),  # all of them
        ({"seeds": "1"}, False),
        ({"seeds": "7,8,9"}, False),
        ({"arms": ["a"]}, False),
        ({"overrides": ["optim.lr=1"]}, False),
    ],
)
def test_only_a_whole_comparison_is_published(tmp_path, monkeypatch, options, written):
    from common.engine.comparison.spec import choose_arms, choose_seeds
    from tests.unit.engine.comparison_runs import FakeRun

    monkeypatch.setattr(compare, "ROOT", tmp_path)
    spec = Comparison(metric="score", arms={"a": {}, "b": {}, "c": {}}, default_arms=["a", "b"])

    def planned(project, overrides=(), seeds=None, arms=(), only=""):
        (chosen,) = choose_arms([spec], arms)
        numbers = choose_seeds(spec, seeds)
        return [(spec, chosen, [FakeRun(tmp_path, a, s, 0.5) for s in numbers for a in chosen])]

    seen = []
    monkeypatch.setattr(compare, "planned_runs", planned)
    monkeypatch.setattr(compare, "publish", lambda project, result: seen.append(result))
    result = compare.compare("dcl", **options)
    assert bool(seen) == written
    assert ("aside" in result) != written  # and why not


def test_an_appendix_stays_until_its_arms_change(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    kept = {"arms": {"c": {"overrides": {"x": 1}}}, "claims": []}
    (tmp_path / "results/dcl.json").write_text(json.dumps({"name": "", "appendix": kept}))
    for overrides, expected in (({"x": 1}, kept), ({"x": 2}, None)):
        result = {"name": "", "more": []}
        compare.keep_appendices("dcl", result, [Comparison(arms={"c": overrides})])
        assert result.get("appendix") == expected


TWO = {
    "": Comparison(metric="score", arms={"a": {}, "b": {}}, seeds=[0, 1, 2], claims=["a > b"]),
    "late": Comparison(
        metric="score", arms={"a": {}, "b": {}}, seeds=[0, 1, 2], claims=["b > a"], name="late"
    ),
}


@pytest.fixture
def two_comparisons(tmp_path, monkeypatch):
    """A project with a published comparison and one that never ran; yields results as they are
    written.
    """
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    (tmp_path / "results").mkdir()
    main = result_of(tmp_path / "main", {"a": HIGH, "b": LOW}, ["a > b"])
    (tmp_path / "results/dcl.json").write_text(json.dumps(main | {"more": []}))
    made = [
        FakeRun(tmp_path / "late", arm, seed, v)
        for arm, own in (("a", LOW), ("b", HIGH))
        for seed, v in enumerate(own)
    ]
    written = []
    monkeypatch.setattr(compare, "read_comparisons", lambda project: list(TWO.values()))
    monkeypatch.setattr(
        compare,
        "PlannedRun",
        lambda _, spec, arm, seed, __: next(r for r in made if (r.arm, r.seed) == (arm, seed)),
    )
    monkeypatch.setattr(compare, "publish", lambda project, result: written.append(result))
    return written


def test_one_comparison_alone_is_published_beside_the_others(two_comparisons, monkeypatch):
    monkeypatch.setattr(compare, "freshness", lambda *_: "fresh")
    printed = compare.compare("dcl", only="late")
    assert printed == two_comparisons[0]
    assert [c["claim"] for c in printed["claims"]] == ["a > b"]
    assert printed["arms"]["a"]["values"] == HIGH  # as published: other runs of a have LOW
    (late,) = printed["more"]
    assert (late["name"], late["claims"][0]["verdict"]) == ("late", "supported")
    assert late["arms"]["a"]["values"] == LOW

    alone = compare.compare("dcl", only="late", seeds="1")  # printed, not written
    assert (alone["name"], alone["more"], len(two_comparisons)) == ("late", [], 1)


@pytest.mark.parametrize("state", ["stale: config changed", "not run"])
def test_beside_a_stale_comparison_nothing_runs(two_comparisons, monkeypatch, state):
    monkeypatch.setattr(compare, "freshness", lambda *_: state)
    monkeypatch.setattr(compare, "run_all", lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(
        UserError, match=f"'main' as it is published, and that is {state}.*make compare PROJECT=dcl"
    ):
        compare.compare("dcl", only="late")
    assert two_comparisons == []


def test_a_claim_that_moves_to_the_appendix_takes_its_verdict_along(tmp_path):
    arms = {"a": {}, "b": {}, "c": {}}
    result = result_of(tmp_path, {"a": HIGH, "b": LOW, "c": MIDDLE}, ["a > b", "c > a"])
    moved = compare.recounted(
        result, Comparison(metric="score", arms=arms, claims=["a > b"], appendix=["c > a"])
    )
    assert [c["claim"] for c in moved["claims"]] == ["a > b"]
    assert moved["uncounted"] == result["claims"][1:]
    back = compare.recounted(
        moved, Comparison(metric="score", arms=arms, claims=["c > a", "a > b"])
    )
    assert (back["claims"], back["uncounted"]) == (result["claims"][::-1], [])
    for claims in (
        ["a > b"],
        ["a > b", "c > a", "c > b"],
    ):  # one would be lost; one was never judged
        assert (
            compare.recounted(result, Comparison(metric="score", arms=arms, claims=claims))
            is result
        )


@pytest.mark.parametrize(
    ("cost", "verdict"), [(LOW, "supported"), (HIGH, "contradicted"), (MIDDLE, "not shown")]
)
def test_a_claim_in_two_metrics_has_one_verdict(tmp_path, cost, verdict):
    """Higher score and lower cost: b's cost is the middle one."""
    values = {"a": HIGH, "b": LOW, "c": LOW}
    costs = {"a": cost, "b": MIDDLE, "c": MIDDLE}
    runs = {
        arm: [
            FakeRun(tmp_path, arm, seed, v, None, cost=costs[arm][seed])
            for seed, v in enumerate(own)
        ]
        for arm, own in values.items()
    }
    spec = Comparison(
        metric="score",
        arms={arm: {} for arm in values},
        claims=[{"claim": "a > b and a > c", "and_in": {"cost": "min"}}],
    )
    (claim,) = claims_of(spec)
    assert claim.text == "a > b and a > c and in cost"
    found = judge(claim, spec, runs)
    assert found["verdict"] == verdict
    assert [part["claim"] for part in found["parts"]] == [
        "a > b",
        "a > c",
        "a < b in cost",
        "a < c in cost",
    ]
    assert found["here"][0] == pytest.approx(float(np.mean(HIGH)))
    with pytest.raises(UserError, match="max or min"):
        claims_of(
            Comparison(
                metric="score",
                arms={"a": {}, "b": {}},
                claims=[{"claim": "a > b", "and_in": {"cost": "less"}}],
            )
        )
