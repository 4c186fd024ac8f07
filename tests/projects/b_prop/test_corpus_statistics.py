"""Counts over a collection; whole words of a segment."""

import json
import math

import numpy as np
import pytest

from common.config import UserError
from projects.b_prop.corpus_statistics import (
    CorpusStatistics,
    dirichlet,
    keep_probability,
)
from projects.b_prop.masking import mask_words

ROWS = [{"red": 3, "fox": 1}, {"red": 1, "cow": 5}, {"fox": 1}]


def test_counts_and_backgrounds():
    actual = CorpusStatistics.of(ROWS)
    assert (actual.num_documents, actual.num_words) == (3, 11)
    assert actual.mean_length == pytest.approx(11 / 3)
    assert actual.background() == {"red": 0.4, "fox": 0.4, "cow": 0.2}
    assert actual.background("tf", 4) == {"red": 4 / 9, "cow": 5 / 9}
    assert actual.idf("cow") == pytest.approx(math.log(3))
    assert actual.idf("zebra") == pytest.approx(math.log(4))
    again = CorpusStatistics.from_json(json.loads(json.dumps(actual.to_json())))
    assert again == actual
    with pytest.raises(UserError, match="lower the least count"):
        actual.background(min_count=9)


def test_smoothing_sums_to_one_and_moves_towards_the_collection():
    back = CorpusStatistics.of(ROWS).background()
    for mu in (0.5, 1e6):
        whole = sum(dirichlet(w, {"cow": 2}, 2, back, mu) for w in back)
        assert whole == pytest.approx(1)
    assert dirichlet("cow", {"cow": 2}, 2, back, 1e9) == pytest.approx(0.2)
    assert dirichlet("cow", {"cow": 2}, 2, back, 1e-9) == pytest.approx(1)
    assert keep_probability(1e-4) == 2


def test_masked_words_are_whole_allowed_and_few_enough():
    rng = np.random.default_rng(0)
    ids = np.arange(100, 140)
    continues = np.arange(40) % 3 != 0
    continues[10] = True  # a word across the border of the allowed part
    allowed = np.arange(40) >= 10
    allowed[-1] = False
    shares, kinds = [], []
    for _ in range(300):
        masked, labels = mask_words(
            ids, allowed, continues, rng, mask_id=4, vocab_size=50, probability=0.3
        )
        chosen = labels != -100
        assert (labels[chosen] == ids[chosen]).all()
        assert (masked[~chosen] == ids[~chosen]).all()
        assert not chosen[:12].any()  # not even the allowed rest of the word across the border
        assert not chosen[-1]
        starts = np.flatnonzero(~continues)
        for word in np.split(chosen, starts[1:]):
            assert word.all() or not word.any()
        shares.append(chosen.sum())
        kinds += np.where(masked[chosen] == 4, 0, np.where(masked[chosen] < 50, 1, 2)).tolist()
    assert max(shares) <= round(0.3 * 29)
    assert min(shares) >= round(0.3 * 29) - 2
    assert np.bincount(kinds) / len(kinds) == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


def test_a_budget_a_floor_and_wrong_shapes():
    rng = np.random.default_rng(0)
    ids, single = np.arange(20), np.zeros(20, dtype=bool)

    def count(probability, most=None):
        _, labels = mask_words(
            ids, ~single, single, rng, mask_id=4, vocab_size=50, probability=probability, most=most
        )
        return int((labels != -100).sum())

    assert (count(0.5), count(0.5, 3), count(0.001), count(0.0), count(1.0)) == (10, 3, 1, 0, 20)
    with pytest.raises(ValueError, match="one length"):
        mask_words(ids, ~single[1:], single, rng, mask_id=4, vocab_size=50)
    with pytest.raises(ValueError, match="probability"):
        mask_words(ids, ~single, single, rng, mask_id=4, vocab_size=50, probability=2)
