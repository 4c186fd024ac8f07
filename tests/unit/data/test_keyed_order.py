"""Orders of large sets: every sample once, as if drawn, computed slice by slice."""

import numpy as np
import pytest

from common.data import samplers
from common.data.samplers import KeyedOrder, SeededBatchSampler


def order(length, seed=0):
    return KeyedOrder(length, np.random.default_rng(seed))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 65, 1000, 4096, 100_003])
def test_every_index_comes_once(length):
    assert np.array_equal(np.sort(order(length)[:]), np.arange(length))


def test_slices_are_those_of_the_whole():
    whole = order(1000)
    assert np.array_equal(np.concatenate([whole[a : a + 37] for a in range(0, 1000, 37)]), whole[:])
    assert whole[990:2000].shape == (10,)


def test_nothing_is_held_for_all_samples():
    """Ten thousand billion: as an array 80 terabytes."""
    indices = order(10**13)[10**12 : 10**12 + 512]
    assert len(set(indices.tolist())) == 512
    assert 0 <= indices.min() < indices.max() < 10**13


@pytest.mark.parametrize("length", [50_000, 65_536])
def test_an_order_looks_drawn(length):
    """Neighbours, places and keys: none tells of another (bounds of four standard deviations)."""
    indices = order(length)[:]
    bound = 4 / length**0.5
    assert abs(np.corrcoef(indices[:-1], indices[1:])[0, 1]) < bound
    assert abs(np.corrcoef(np.arange(length), indices)[0, 1]) < bound
    assert abs(np.corrcoef(indices, order(length, 1)[:])[0, 1]) < bound
    fixed = (indices == np.arange(length)).sum()
    assert fixed < 8  # one is expected
    cells = np.histogram2d(np.arange(length), indices, bins=16)[0]
    expected = length / 256
    assert ((cells - expected) ** 2 / expected).sum() < 225 + 4 * 450**0.5  # chi squared
    gaps = np.bincount(np.diff(indices) % 64, minlength=64)
    assert ((gaps - length / 64) ** 2 / (length / 64)).sum() < 63 + 4 * 126**0.5


def test_batches_of_a_large_set(monkeypatch):
    """Each sample once an epoch, ranks share a global batch, a run goes on where it was."""
    monkeypatch.setattr(samplers, "KEYED_FROM", 100)

    def batches(size, rank=0, ranks=1, first=0):
        sampler = SeededBatchSampler(103, size, 5, rank=rank, world_size=ranks, num_batches=20)
        sampler.start_at(first)
        return list(sampler)

    whole = batches(10)
    seen = [index for batch in whole[:10] for index, _ in batch]
    assert len(set(seen)) == 100
    assert seen != sorted(seen)
    assert seen != [index for batch in whole[10:] for index, _ in batch]
    assert {epoch for batch in whole[10:] for _, epoch in batch} == {1}
    assert batches(10, first=13) == whole[13:]
    shared = zip(batches(5, 0, 2), batches(5, 1, 2), strict=True)
    assert [a + b for a, b in shared] == whole
    monkeypatch.setattr(samplers, "KEYED_FROM", 104)
    assert batches(10) != whole  # smaller sets keep numpy's permutation
