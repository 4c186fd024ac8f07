"""Bootstrap intervals and verdicts."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from common.evaluation.statistics import (
    Interval,
    paired_bootstrap,
    verdict,
)


def test_three_seeds_give_the_range():
    interval = paired_bootstrap([0.03, -0.01, 0.02])
    assert (interval.low, interval.high) == (-0.01, 0.03)
    assert interval.mean == pytest.approx(0.04 / 3)


def test_one_axis_agrees_with_scipy():
    values = np.random.default_rng(0).normal(0.2, 1.0, size=60)
    ours = paired_bootstrap(values[None, :], num_samples=20_000)
    theirs = bootstrap((values,), np.mean, method="percentile", rng=0, n_resamples=20_000)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    assert paired_bootstrap(values).low == pytest.approx(ours.low, abs=0.02)


def test_both_axes_are_resampled():
    rng = np.random.default_rng(1)
    items, seeds = rng.normal(size=(1, 30)), rng.normal(size=(30, 1))

    def width(values):
        interval = paired_bootstrap(values + np.zeros((30, 30)), num_samples=3000)
        return interval.high - interval.low

    expected = 2 * 1.96 / np.sqrt(30)
    assert width(items) == pytest.approx(expected * items.std(), rel=0.1)
    assert width(seeds) == pytest.approx(expected * seeds.std(), rel=0.1)
    both = np.hypot(items.std(), seeds.std())
    assert width(items + seeds) == pytest.approx(expected * both, rel=0.1)


def test_interval_covers_about_95_percent_for_many_items():
    rng = np.random.default_rng(2)
    covered = 0
    for repeat in range(100):
        interval = paired_bootstrap(rng.normal(1.0, 2.0, (1, 80)), num_samples=300, seed=repeat)
        covered += interval.low <= 1.0 <= interval.high
    assert 87 <= covered <= 100


def test_seeded():
    values = np.random.default_rng(3).normal(size=(3, 40))
    assert paired_bootstrap(values) == paired_bootstrap(values)
    assert paired_bootstrap(values, seed=1) != paired_bootstrap(values, seed=2)
    assert paired_bootstrap(values, num_samples=100).confidence == 0.95


def test_wider_confidence_gives_a_wider_interval():
    values = np.random.default_rng(4).normal(size=(4, 30))
    narrow, wide = (paired_bootstrap(values, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (0.01, 0.2, 0.0, "supported"),
        (0.0, 0.2, 0.0, "not shown"),
        (-0.1, 0.2, 0.0, "not shown"),
        (-0.2, 0.0, 0.0, "not shown"),
        (-0.2, -0.01, 0.0, "contradicted"),
        (-0.04, 0.01, 0.05, "supported"),
        (-0.06, 0.01, 0.05, "not shown"),
        (-0.2, -0.04, 0.05, "not shown"),
        (-0.2, -0.06, 0.05, "contradicted"),
    ],
)
def test_verdict_follows_the_interval(low, high, margin, expected):
    assert verdict(Interval((low + high) / 2, low, high, 0.95), margin) == expected


def test_verdict_on_raw_differences():
    assert verdict([0.1, 0.2, 0.3]) == "supported"
    assert verdict([-0.1, -0.2, -0.3]) == "contradicted"
    assert verdict([0.0, 0.0, 0.0]) == "not shown"


def test_refusals():
    with pytest.raises(ValueError, match="one number has no interval"):
        paired_bootstrap([0.3])
    with pytest.raises(ValueError, match="NaN"):
        verdict([0.1, float("nan"), 0.2])
    with pytest.raises(ValueError, match=r"\(seeds, items\)"):
        paired_bootstrap(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="margin"):
        verdict([0.1, 0.2], margin=-0.1)
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap([0.1, 0.2], confidence=95)
