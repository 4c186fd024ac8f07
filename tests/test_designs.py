"""Designs of the comparisons: rates inside their search, no sorting by length, arms that were
trained.
"""

import json
from operator import attrgetter
from statistics import mean, pstdev
from typing import Any

import pytest

from common.config import CONFIG_DIR, ROOT, load
from common.engine.comparison.results import comparisons
from common.engine.comparison.spec import claims_of, default_arms, read_comparisons
from common.engine.sweeps.schema import read_sweep, words_of
from common.registry import config_class, list_projects

pytestmark = pytest.mark.slow

TEXTS = ("simcse", "esimcse", "whitenedcse", "debcse", "mirror_bert")
SEARCHED = [p for p in list_projects() if (CONFIG_DIR / p / "sweep.yaml").is_file()]
# default arms whose rate is the least or largest that was searched, and why that is no fault
AT_AN_END = {
    ("ccp", "no_norm"): "the less it learns, the better it is: a smaller rate would be no training",
    ("cocosoda", "full"): "the next one was tried by hand: nothing is learnt there",
    ("demo_retrieval", "retrieved"): "the next one was tried by hand and is worse",
    (
        "demo_retrieval",
        "retrieved_no_meta",
    ): "the next one was tried by hand: nothing is learnt there",
    ("rtd", "rtd"): "the next one was tried by hand: as good to a thousandth",
    ("rtd", "phi_only"): "its text tower is not trained",
    ("vega", "rtd"): "searched by hand, the next one below as well",
    ("wikides", "official"): "the less it learns, the better it is",
}


def rates(project: str) -> dict[str, dict[str, float]]:
    """Learning rates of the arms that run by default, by searched setting; arms that do not move
    have none.
    """
    sweep = read_sweep(project)
    found: dict[str, dict[str, float]] = {key: {} for key in sweep.space if key.endswith("lr")}
    for spec in read_comparisons(project):
        base = load(config_class(project), project, spec.base)
        for arm in default_arms(spec):
            said = {**spec.shared, **spec.arms[arm]}
            for key, by_arm in found.items():
                value = float(said.get(key, attrgetter(key)(base)))
                if value > 1e-9:
                    by_arm[arm] = value
    return found


def outside(values: dict[str, float], tried: tuple[float, float]) -> set[str]:
    """Arms whose value does not lie between the least and the largest that were tried."""
    return {arm for arm, value in values.items() if not tried[0] < value < tried[1]}


@pytest.mark.parametrize("project", SEARCHED)
def test_learning_rates_lie_inside_their_search(project):
    sweep = read_sweep(project)
    ends = {
        arm for key, own in rates(project).items() for arm in outside(own, sweep.space[key].bounds)
    }
    assert ends == {arm for slug, arm in AT_AN_END if slug == project}


def test_a_rate_at_an_end_of_its_search_is_noticed():
    found = rates("simcse")["optim.lr"]
    assert found
    rate = next(iter(found.values()))
    assert outside({"arm": rate}, (rate / 3, rate * 3)) == set()
    assert (
        outside({"arm": rate}, (rate, rate * 9))
        == outside({"arm": rate}, (rate / 9, rate))
        == {"arm"}
    )


@pytest.mark.parametrize("project", TEXTS)
def test_no_arm_of_the_text_projects_sorts_its_batches_by_length(project):
    """In-batch negatives of one length hide the bias that these methods are about."""
    for spec in read_comparisons(project):
        for arm in spec.arms:
            words = [*words_of(spec.shared), *words_of(spec.arms[arm])]
            cfg: Any = load(config_class(project), project, spec.base, words)
            assert cfg.data.bucket_batches is None, arm
    sorted_by_length: Any = load(config_class(project), project, "mini", ["data.bucket_batches=8"])
    assert sorted_by_length.data.bucket_batches == 8  # the setting that would do it


def unmoved(result: dict[str, Any], metric: str, start: str) -> set[str]:
    """Arms that lie within three seed deviations of where they began, or that were not measured."""
    [begin] = result["baselines"][start]["metrics"][metric]
    seen = {arm: entry["metrics"].get(metric) for arm, entry in result["arms"].items()}
    return {
        arm
        for arm, values in seen.items()
        if not values or abs(mean(values) - begin) <= 3 * pstdev(values)
    }


@pytest.mark.parametrize(
    "project", [p for p in TEXTS if p != "mirror_bert"]
)  # its arms stand still on purpose
def test_training_moved_the_geometry_of_every_published_arm(project):
    result = json.loads((ROOT / "results" / f"{project}.json").read_text(encoding="utf-8"))
    for one in comparisons(result):
        if "uniformity" in one["also"]:
            assert unmoved(one, "uniformity", "raw") == set()
    still = {"metrics": {"uniformity": [-1.11, -1.12, -1.13]}}
    begin = {"raw": {"metrics": {"uniformity": [-1.117]}}}
    assert unmoved({"arms": {"still": still}, "baselines": begin}, "uniformity", "raw") == {"still"}


# arms of the paper's tables and controls that must run without ARMS=full
CENTRAL = {
    "cacr": {"full", "none", "without_w1", "without_w2", "infonce"},
    "coconut": {"coconut", "er", "finetune", "offline"},
    "debcse": {"ipw", "simcse", "simcse_long", "uniform", "semantic_only"},
    "esimcse": {"simcse", "repetition", "queue", "both"},
    "hydra": {
        "arbitrary_gate",
        "arbitrary_open",
        "identical_gate",
        "identical_open",
        "distinct_gate",
        "frozen_simclr",
    },
    "laclip": {"laclip", "clip", "eda", "all_texts", "rewrites_1"},
    "mirror_bert": {
        "raw",
        "dropout",
        "span_mask",
        "both",
        "random",
        "random_both",
        "both_words",
        "random_both_words",
    },
    "nv_embed": {"few_classes", "few_classes_in_batch", "two_stage", "single"},
    "rankgen": {"mixed", "inbook", "inbook_long", "generative", "both"},
    "sepclr": {"sepclr", "no_kjem", "mmd", "vae", "simclr"},
    "simcse": {"same_mask", "unsup", "sup_pairs", "sup"},
    "trend": {"trend", "reconstruction", "scratch"},
    "whitenedcse": {"m2", "m3", "sgw_m2", "sgw_m3", "m2_long"},
}


@pytest.mark.parametrize("project", CENTRAL)
def test_central_arms_run_by_default(project):
    run = {arm for spec in read_comparisons(project) for arm in default_arms(spec)}
    assert run >= CENTRAL[project]


def test_coconut_has_twenty_seeds_and_commands_of_several_words():
    main, _ = read_comparisons("coconut")
    assert len(main.seeds) >= 20
    cfg: Any = load(config_class("coconut"), "coconut", main.base)
    assert cfg.data.command_words >= 2


def test_rankgen_says_which_of_its_claims_the_paper_does_not_make():
    counted = [c for spec in read_comparisons("rankgen") for c in claims_of(spec) if not c.appendix]
    papers = {claim.text for claim in counted if not claim.paper.startswith("ours")}
    assert {
        "generative > both in generated_accuracy",
        "both > inbook in generated_accuracy",
    } <= papers
    assert "inbook > mixed" in {claim.text for claim in counted} - papers
