"""Length bucketing: less padding, the same joint batches for any number of ranks."""

from itertools import chain, islice

import numpy as np
import pytest

from common.config import UserError
from common.data.module import ContrastiveData
from common.data.samplers import SeededBatchSampler

LENGTHS = np.random.default_rng(0).integers(3, 40, 103)


def sampler(batch_size=8, seed=0, window=4, lengths=LENGTHS, **options):
    return SeededBatchSampler(
        len(LENGTHS), batch_size, seed, lengths=lengths, bucket_batches=window, **options
    )


def take(source, n):
    return list(islice(iter(source), n))


def padding(batches):
    """Share of the cells of the batches that is padding."""
    sizes = [[LENGTHS[i] for i, _ in batch] for batch in batches]
    return 1 - sum(map(sum, sizes)) / sum(max(s) * len(s) for s in sizes)


def test_every_epoch_visits_the_samples_of_the_plain_order_once():
    batches = take(sampler(), 24)
    plain = take(SeededBatchSampler(len(LENGTHS), 8, 0), 24)
    for epoch in (slice(0, 12), slice(12, 24)):
        assert sorted(chain(*batches[epoch])) == sorted(chain(*plain[epoch]))
    assert {i for i, _ in chain(*batches[:12])} != {i for i, _ in chain(*batches[12:])}
    assert sorted(sampler().permutation(0)) == list(range(103))


def test_padding_shrinks_with_the_window():
    shares = [
        padding(take(s, 12)) for s in (SeededBatchSampler(103, 8, 0), sampler(), sampler(window=12))
    ]
    assert shares[0] > 1.5 * shares[1] > 1.5 * shares[2]


def test_samples_stay_in_their_window_and_batches_change_places():
    plain = SeededBatchSampler(103, 8, 0).permutation(0)
    bucketed = sampler().permutation(0)
    places = []
    for start in range(0, 96, 32):
        window = bucketed[start : start + 32]
        assert set(window) == set(plain[start : start + 32])
        means = LENGTHS[window].reshape(4, 8).mean(axis=1)
        places.append(np.argsort(means).tolist())
        by_mean = window.reshape(4, 8)[np.argsort(means)].reshape(-1)
        assert (np.diff(LENGTHS[by_mean]) >= 0).all()
    assert any(place != [0, 1, 2, 3] for place in places)  # not from short to long


def test_joint_batch_does_not_depend_on_the_number_of_ranks():
    one = take(sampler(), 30)
    for world in (2, 4):
        ranks = [sampler(8 // world, rank=r, world_size=world) for r in range(world)]
        joint = [list(chain(*parts)) for parts in zip(*(take(s, 30) for s in ranks), strict=True)]
        assert joint == one
    assert take(sampler(4), 30) != [batch[:4] for batch in one]  # another global batch size


def test_position_is_exact_across_epochs():
    whole = take(sampler(), 30)
    for first in (1, 11, 12, 25):
        resumed = sampler()
        resumed.start_at(first)
        assert take(resumed, 30 - first) == whole[first:]


def test_seed_and_epoch_change_the_order():
    assert take(sampler(), 3) != take(sampler(seed=1), 3)
    assert sampler().permutation(0).tolist() != sampler().permutation(1).tolist()


def test_equal_lengths_only_change_the_order_of_the_batches():
    plain = take(SeededBatchSampler(103, 8, 0), 4)
    flat = take(sampler(lengths=np.ones(103)), 4)
    assert sorted(plain) == sorted(flat)


def test_bucketing_needs_lengths_and_shuffling():
    with pytest.raises(UserError, match="needs samples with lengths"):
        sampler(lengths=None)
    with pytest.raises(UserError, match="shuffling"):
        sampler(shuffle=False)
    with pytest.raises(UserError, match="at least 1"):
        sampler(window=0)
    with pytest.raises(ValueError, match="lengths of that shape"):
        sampler(lengths=LENGTHS[1:])


def test_data_module_hands_both_on():
    pairs = range(40)
    lengths = np.arange(40)
    data = ContrastiveData(pairs, batch_size=4, seed=0, lengths=lengths, bucket_batches=10)
    order = data._sampler(0, 1, None).permutation(0)
    assert np.ptp(lengths[order].reshape(10, 4), axis=1).tolist() == [3] * 10
    without = ContrastiveData(pairs, batch_size=4, seed=0, lengths=lengths)
    assert without._sampler(0, 1, None).permutation(0).tolist() != order.tolist()
