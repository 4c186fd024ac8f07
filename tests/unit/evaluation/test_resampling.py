"""Bootstrap of several arms at once: it agrees with the paired one, of any combination."""

import numpy as np
import pytest

from common.evaluation.resampling import Scores, resample
from common.evaluation.statistics import paired_bootstrap
from common.evaluation.text.sts import spearman

RNG = np.random.default_rng(0)
A, B = RNG.normal(0.2, 1, (3, 40)).round(1), RNG.normal(0, 1, (3, 40)).round(1)  # with ties
GOLD = (A.mean(axis=0) + RNG.normal(size=40)).round(1)


def interval(samples):
    return tuple(np.quantile(samples, [0.025, 0.975]))


def test_means_are_the_paired_bootstrap():
    paired = paired_bootstrap(A - B, num_samples=500)
    point, samples = resample({"a": [Scores(A)], "b": [Scores(B)]}, num_samples=500)
    assert point["a"] - point["b"] == pytest.approx(paired.mean)
    assert interval(samples["a"] - samples["b"]) == pytest.approx((paired.low, paired.high))


def test_rank_correlations_are_those_of_the_drawn_items():
    def difference(seeds, items):
        pairs = [(A[s, items], B[s, items]) for s in seeds]
        return np.mean([spearman(a, GOLD[items]) - spearman(b, GOLD[items]) for a, b in pairs])

    rng = np.random.default_rng(0)
    expected = [difference(rng.integers(3, size=3), rng.integers(40, size=40)) for _ in range(50)]
    arms = {"a": [Scores(A, GOLD)], "b": [Scores(B, GOLD)]}
    point, samples = resample(arms, num_samples=50)
    assert point["a"] - point["b"] == pytest.approx(difference(range(3), range(40)))
    assert samples["a"] - samples["b"] == pytest.approx(expected)


def test_an_average_over_sets_draws_items_within_each_set():
    """Two sets whose items are constant have no variance, whatever their sizes; mixed, they
    would."""
    sets = [Scores(np.zeros((1, 5))), Scores(np.ones((1, 50)))]
    point, samples = resample({"a": sets}, num_samples=20)
    assert point["a"] == 0.5  # unweighted
    assert samples["a"].tolist() == [0.5] * 20
    (mixed,) = resample(
        {"a": [Scores(np.concatenate([np.zeros((1, 5)), np.ones((1, 50))], axis=1))]},
        num_samples=20,
    )[1].values()
    assert np.std(mixed) > 0


def test_a_baseline_has_one_row_for_all_seeds():
    point, samples = resample({"a": [Scores(A)], "b": [Scores(B[:1])]}, num_samples=200)
    again = resample(
        {"a": [Scores(A)], "b": [Scores(np.repeat(B[:1], 3, axis=0))]}, num_samples=200
    )
    assert point == pytest.approx(again[0])
    assert samples["b"] == pytest.approx(again[1]["b"])


def test_items_alone_keep_the_seeds():
    constant = np.arange(3.0)[:, None] + np.zeros((3, 10))
    assert np.std(resample({"a": [Scores(constant)]}, num_samples=50)[1]["a"]) > 0
    alone = resample({"a": [Scores(constant)]}, seeds=False, num_samples=50)[1]["a"]
    assert alone.tolist() == [1.0] * 50


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="'b' has other items"):
        resample({"a": [Scores(A)], "b": [Scores(B[:, :9])]})
    with pytest.raises(ValueError, match="finite"):
        Scores(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="gold"):
        Scores(A, GOLD[:9])
