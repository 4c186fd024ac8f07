"""Sampling probabilities: the worked example, monotony, switches, clipping, seeded draws."""

import math

import numpy as np
import pytest

from common.config import UserError
from projects.debcse.config import IpwConfig
from projects.debcse.sampling import PairSampler, Pools, inverse_propensity, probabilities
from tests.projects.debcse.conftest import config, pools

PLAIN = {"surface_temperature": 0.2, "semantic_temperature": 0.1, "clip": None}
SIDES = ("positive", "negative")


def chances(s, m, side, threshold=None, **options):
    """Probabilities of one anchor's candidates."""
    s, m = np.array([s], dtype=float), np.array([m], dtype=float)
    open_end = -2.0 if side == "positive" else 2.0
    limit = open_end if threshold is None else threshold
    present = np.ones_like(s, dtype=bool)
    actual = probabilities(
        s, m, present, IpwConfig(**{**PLAIN, **options}), side=side, threshold=limit
    )
    return actual[0]


def random_tables(rows=200, columns=7, seed=0):
    rng = np.random.default_rng(seed)
    s, m = rng.random((rows, columns)), 2 * rng.random((rows, columns)) - 1
    return s, m, rng.random((rows, columns)) < 0.5


def test_worked_example_of_positives():
    actual = chances([1.0, 0.5, 0.5], [0.9, 0.9, 0.8], "positive")
    np.testing.assert_allclose(actual, [0.0566, 0.6897, 0.2537], atol=5e-5)
    ratios = [1, math.exp(2.5), math.exp(1.5)]
    np.testing.assert_allclose(actual, np.array(ratios) / sum(ratios), rtol=1e-12)


def test_worked_example_of_negatives():
    actual = chances([0.1, 0.6, 0.6], [0.2, 0.2, 0.4], "negative")
    np.testing.assert_allclose(actual, [0.0674, 0.8214, 0.1112], atol=5e-5)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("clip", [None, 10.0, 0.5])
def test_item_2_probabilities(side, clip):
    """Checklist 2: non-negative, sum to 1 per anchor, zero where the threshold fails."""
    s, m, present = random_tables()
    options = IpwConfig(clip=clip)
    actual = probabilities(s, m, present, options, side=side, threshold=0.3)
    passes = present & (m >= 0.3 if side == "positive" else m <= 0.3)
    assert (actual >= 0).all()
    assert (actual[~passes] == 0).all()
    assert (actual[passes] > 0).all()
    some = passes.any(axis=1)
    assert 0 < some.sum() < len(some)  # rows of both kinds are in the data
    np.testing.assert_allclose(actual[some].sum(axis=1), 1, rtol=1e-12)
    assert (actual[~some] == 0).all()


@pytest.mark.parametrize("m", [-0.2, 0.4, 0.9])
def test_item_3_surface_preference(m):
    """Checklist 3: at equal m positives prefer the lower s, negatives the higher; strictly."""
    s = [0.1, 0.4, 0.41, 0.9]
    positive, negative = (chances(s, [m] * 4, side) for side in SIDES)
    assert (np.diff(positive) < 0).all()
    assert (np.diff(negative) > 0).all()
    for side in SIDES:  # the twin: without the surface part there is no preference
        np.testing.assert_allclose(chances(s, [m] * 4, side, surface=False), 0.25)


@pytest.mark.parametrize("s", [0.0, 0.5, 1.0])
def test_item_4_semantic_preference(s):
    """Checklist 4: at equal s positives prefer the higher m, negatives the lower; strictly."""
    m = [-0.3, 0.2, 0.21, 0.8]
    positive, negative = (chances([s] * 4, m, side) for side in SIDES)
    assert (np.diff(positive) > 0).all()
    assert (np.diff(negative) < 0).all()
    for side in SIDES:
        np.testing.assert_allclose(chances([s] * 4, m, side, semantic=False), 0.25)


@pytest.mark.parametrize("side", SIDES)
def test_item_5_infinite_lambda_is_semantic_only(side):
    """Checklist 5: pi becomes uniform; at the default lambda it is not."""
    s, m, present = random_tables()
    actual = [
        probabilities(s, m, present, options, side=side, threshold=0.0)
        for options in (
            IpwConfig(surface_temperature=math.inf),
            IpwConfig(surface=False),
            IpwConfig(),
        )
    ]
    np.testing.assert_allclose(actual[0], actual[1], rtol=1e-12)
    assert np.abs(actual[0] - actual[2]).max() > 0.1


@pytest.mark.parametrize("side", SIDES)
def test_item_6_inverse_weights_are_clipped(side):
    """Checklist 6: at c = clip times the number of candidates; smaller ones stay."""
    s, _, present = random_tables()
    free = inverse_propensity(s, present, side=side, temperature=0.2)
    cut = inverse_propensity(s, present, side=side, temperature=0.2, clip=1.5)
    limit = np.log(1.5 * present.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(cut, np.where(present, np.minimum(free, limit), 0))
    above = present & (free > limit)
    assert 0 < above.sum() < present.sum()
    weights = np.where(present, np.exp(-free), 0).sum(axis=1)
    np.testing.assert_allclose(weights[present.any(axis=1)], 1)  # pi sums to 1


def test_extreme_temperatures_stay_finite():
    s, m, present = random_tables()
    options = IpwConfig(surface_temperature=1e-4, semantic_temperature=1e-4, clip=None)
    for side in SIDES:
        actual = probabilities(s, m, present, options, side=side, threshold=0.0)
        assert np.isfinite(actual).all()


def test_negatives_have_a_temperature_of_their_own():
    s, m = [0.5, 0.5, 0.5], [0.1, 0.3, 0.6]
    same = {"negative_temperature": 0.1}
    for side in SIDES:
        np.testing.assert_allclose(chances(s, m, side, **same), chances(s, m, side))
    softer = chances(s, m, "negative", negative_temperature=0.4)
    expected = np.exp(-np.array(m) / 0.4)
    np.testing.assert_allclose(softer, expected / expected.sum())
    np.testing.assert_allclose(
        chances(s, m, "positive", negative_temperature=0.4), chances(s, m, "positive")
    )


# -- draws ---------------------------------------------------------------------------------------


def example_pools(count=40, seed=0):
    """Each anchor: itself and five others as positives, eight others as negatives."""
    rng = np.random.default_rng(seed)
    s, m = rng.random((2, count, count))
    positives, negatives = [], []
    for i in range(count):
        others = [int(j) + (int(j) >= i) for j in rng.permutation(count - 1)]
        positives.append([(i, 1.0, 1.0), *((j, s[i, j], m[i, j]) for j in others[:5])])
        # two candidates are in both pools
        negatives.append([(j, s[i, j], m[i, j]) for j in others[3:11]])
    return pools(positives, negatives, theta_pos=0.7, theta_neg=0.5)


def sampler(seed=0, **options):
    return PairSampler(example_pools(), IpwConfig(**options), seed)


MODES = [
    {},
    {"positives": "uniform", "negatives": "uniform"},
    {"surface": False},
    {"semantic": False},
    {"positives": "uniform"},
    {"negatives": "uniform"},
    {"positives": "self"},
    {"negatives": "none"},
]


@pytest.mark.parametrize("options", MODES)
def test_item_8_no_anchor_is_its_own_negative_and_pools_do_not_mix(options):
    """Checklist 8: in every mode, over many epochs."""
    own = sampler(**options)
    anchors = np.arange(40)
    positives, negatives = set(), set()
    for epoch in range(30):
        draws = own.draw(anchors, np.full(40, epoch))
        positives |= {(i, int(j)) for i, j in zip(anchors, draws.ids[:, 0], strict=True)}
        known = ~draws.fallback[:, 1] & (draws.ids[:, 1] >= 0)
        assert (draws.ids[:, 1] != anchors).all()
        negatives |= set(zip(anchors[known], draws.ids[known, 1].tolist(), strict=True))
    assert not positives & negatives
    if options.get("negatives") != "none":
        assert negatives


def test_item_8_overlapping_thresholds_are_refused():
    """Checklist 8: theta_neg < theta_pos."""
    with pytest.raises(UserError, match=r"theta_neg=0\.700 must lie below theta_pos=0\.700"):
        pools([[(0, 1, 1)]], [[(1, 0, 0)]], theta_pos=0.7, theta_neg=0.7)


def test_item_9_draws_depend_on_seed_epoch_and_anchor_alone():
    """Checklist 9: not on the batch, its order, or other anchors."""
    own, anchors = sampler(), np.arange(40)
    whole = own.draw(anchors, np.full(40, 2))
    order = np.random.default_rng(0).permutation(40)
    shuffled = sampler().draw(anchors[order], np.full(40, 2))
    np.testing.assert_array_equal(shuffled.ids, whole.ids[order])
    for anchor in (0, 17, 39):
        one = own.draw(np.array([anchor]), np.array([2]))
        np.testing.assert_array_equal(one.ids[0], whole.ids[anchor])
    assert (own.draw(anchors, np.full(40, 3)).ids != whole.ids).any(axis=0).all()
    assert (sampler(seed=1).draw(anchors, np.full(40, 2)).ids != whole.ids).any(axis=0).all()


def test_draws_follow_the_probabilities():
    own = sampler()
    anchors = np.zeros(4000, dtype=np.int64)
    draws = own.draw(anchors, np.arange(4000))
    for column, side in enumerate(SIDES):
        chance = own.probabilities(np.array([0]), side)[0]
        ids = (own.pools.positive_ids, own.pools.negative_ids)[column][0]
        share = [(draws.ids[:, column] == i).mean() for i in ids]
        np.testing.assert_allclose(share, chance, atol=0.03)
        assert draws.effective[0, column] == pytest.approx(1 / (chance**2).sum())


def test_item_10_fallbacks():
    """Checklist 10: the sentence itself, or a random other sentence; both are reported."""
    near = pools(
        [[(1, 0.2, 0.9)], [(0, 0.2, 0.1)], []],
        [[(2, 0.5, 0.1)], [(2, 0.5, 0.6)], []],
        theta_pos=0.8,
        theta_neg=0.3,
    )
    own = PairSampler(near, IpwConfig(), seed=0)
    others = set()
    for epoch in range(20):
        draws = own.draw(np.arange(3), np.full(3, epoch))
        assert draws.ids[:, 0].tolist() == [1, 1, 2]
        assert draws.fallback.tolist() == [[False, False], [True, True], [True, True]]
        assert draws.ids[0, 1] == 2
        assert draws.semantic[1, 0] == 1.0
        assert np.isnan(draws.semantic[1:, 1]).all()
        others.add(int(draws.ids[1, 1]))
    assert others == {0, 2}
    with pytest.raises(UserError, match="one sentence has no negatives"):
        PairSampler(pools([[(0, 1, 1)]], [[]]), IpwConfig(), seed=0)


def test_item_19_each_switch_alone_changes_the_draws():
    """Checklist 19: surface, semantic, positive IPW, negative IPW, each alone; nothing else
    does."""
    anchors = np.arange(40)
    full = {side: sampler().probabilities(anchors, side) for side in SIDES}

    def changed(**options):
        own = sampler(**options)
        return [bool(np.abs(own.probabilities(anchors, s) - full[s]).max() > 0.05) for s in SIDES]

    assert changed() == [False, False]
    assert changed(surface=False) == [True, True]
    assert changed(semantic=False) == [True, True]
    assert changed(positives="uniform")[0]
    assert changed(negatives="uniform")[1]
    assert not changed(negatives="uniform")[0]
    only_negatives = sampler(positives="self").draw(anchors, np.zeros(40, dtype=int))
    assert only_negatives.ids[:, 0].tolist() == anchors.tolist()
    assert (only_negatives.ids[:, 1] >= 0).all()
    only_positives = sampler(negatives="none").draw(anchors, np.zeros(40, dtype=int))
    assert (only_positives.ids[:, 1] == -1).all()
    assert (only_positives.ids[:, 0] != anchors).any()


def test_item_19_switches_are_config_keys():
    for word in ("surface=false", "semantic=false", "positives=self", "negatives=none"):
        assert config(f"ipw.{word}") != config()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ipw.surface_temperature=0", "must be > 0"),
        ("ipw.semantic_temperature=.inf", "must be > 0 and finite"),
        ("ipw.clip=0", "ipw.clip must be > 0"),
        ("ipw.theta_pos_quantile=1.5", "in \\[0, 1\\]"),
        ("ipw.positives=augmented", "needs ipw.negatives=none"),
        ("pool.pos_k=-1", "pool.pos_k must be >= 0"),
        ("method.temperature=0", "must be > 0"),
        ("data.nli_sentences=-1", "must be >= 0"),
        ("method.hard_weight=0", "hard_weight must be > 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        config(override)


def test_twin_weight_is_refused_where_nothing_is_drawn():
    """The term exists for drawn pairs; it would be ignored without a word."""
    nothing = ("ipw.positives=self", "ipw.negatives=none")
    with pytest.raises(
        UserError, match=r"method.twin_weight.*ipw.positives=self.*nothing is drawn"
    ):
        config("method.twin_weight=0.5", *nothing)
    with pytest.raises(UserError, match="nothing is drawn"):
        config("method.twin_weight=0.5", "ipw.positives=augmented", "ipw.negatives=none")
    assert config(*nothing).num_views == 2
    for drawn in ("ipw.positives=self", "ipw.negatives=none"):  # the other side is still drawn
        assert config("method.twin_weight=0.5", drawn).num_views > config(drawn).num_views


def test_pools_know_their_size():
    assert isinstance(example_pools(), Pools)
    assert example_pools().num_anchors == 40
