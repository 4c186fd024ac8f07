"""Batches of one set each, drawn for every batch."""

import numpy as np
import pytest

from common.config import UserError
from projects.cocosoda.mixture import DrawnMixture


def test_batches_of_one_set_by_probability_without_repetition():
    """Sets follow their probabilities, an epoch begins where the last one ended, in any order of
    reading.
    """
    mixture = DrawnMixture([10, 30], [0.25, 0.75], 3, 4)
    assert len(mixture) == 40
    orders = [mixture.order(epoch) for epoch in range(300)]
    sets = np.concatenate([order.reshape(-1, 4, 2)[:, :, 0] for order in orders])
    assert (sets == sets[:, :1]).all()
    assert (sets[:, 0] == 0).mean() == pytest.approx(0.25, abs=0.02)
    rows = np.concatenate(orders)
    for index, used in enumerate((8, 28)):  # of 10 and 30: whole batches
        own = rows[rows[:, 0] == index, 1]
        rounds = own[: len(own) // used * used].reshape(-1, used)
        assert all(len(set(r)) == used for r in rounds.tolist())
    fresh = DrawnMixture([10, 30], [0.25, 0.75], 3, 4)
    assert np.array_equal(fresh.order(299), orders[299])
    with pytest.raises(UserError, match="do not fill a batch"):
        DrawnMixture([3, 30], [0.5, 0.5], 0, 4)
