"""Batches of one group (document) each."""

import time

import numpy as np
import pytest

from common.config import UserError
from common.data import samplers
from common.data.samplers import SeededBatchSampler

GROUPS = np.repeat([0, 1, 2, 3], [23, 9, 3, 17])
ORDER = np.random.default_rng(0).permutation(len(GROUPS))
GROUPS = GROUPS[ORDER]


def batches(count, seed=0, batch_size=4, **options):
    sampler = SeededBatchSampler(
        len(GROUPS), batch_size, seed, num_batches=count, groups=GROUPS, **options
    )
    return [[index for index, _ in batch] for batch in sampler]


def test_a_batch_mixes_groups_only_when_the_current_one_is_used_up():
    """RankGen checklist 5, checked against a count of what is left of every group."""
    epoch = batches(13)  # 52 samples
    left = {g: int((g == GROUPS).sum()) for g in range(4)}
    mixed = 0
    for batch in epoch:
        current = GROUPS[batch[0]]
        for index in batch:
            if GROUPS[index] != current:
                assert left[current] == 0
                current, mixed = GROUPS[index], mixed + 1
            left[current] -= 1
    assert set(left.values()) == {0}
    assert sorted(i for batch in epoch for i in batch) == list(range(len(GROUPS)))
    assert mixed <= 3
    plain = SeededBatchSampler(len(GROUPS), 4, 0, num_batches=13)
    assert any(len({GROUPS[i] for i, _ in batch}) > 2 for batch in plain)  # the check can fail


def test_order_depends_on_seed_and_epoch_and_visits_groups_in_turn():
    assert batches(13) == batches(13)
    assert batches(13) != batches(13, seed=1)
    both = batches(26)
    assert both[:13] != both[13:]
    owners = [int(GROUPS[batch[0]]) for batch in both[:10]]
    assert owners != sorted(owners)


def test_two_ranks_together_hold_the_batches_of_one_process():
    whole = batches(6, batch_size=8)
    halves = [batches(6, rank=r, world_size=2) for r in range(2)]
    assert whole == [a + b for a, b in zip(*halves, strict=True)]


def test_groups_need_shuffling_and_no_buckets():
    with pytest.raises(UserError, match="do not combine with bucketing"):
        SeededBatchSampler(8, 2, 0, groups=[0] * 8, lengths=[1] * 8, bucket_batches=2)
    with pytest.raises(UserError, match="need shuffling"):
        SeededBatchSampler(8, 2, 0, groups=[0] * 8, shuffle=False)
    with pytest.raises(ValueError, match="8 samples need"):
        SeededBatchSampler(8, 2, 0, groups=[0] * 7)


def test_the_order_is_that_of_a_search_for_every_group():
    """One sort in place of a pass over all samples for each document gives the same batches."""
    for seed in range(3):
        sampler = SeededBatchSampler(len(GROUPS), 4, seed, groups=GROUPS)
        drawn = SeededBatchSampler(len(GROUPS), 4, seed).permutation(2)
        rng = samplers.sample_rng(seed, 2, 0, stream=2**31 + 4)
        members = [drawn[GROUPS[drawn] == g] for g in rng.permutation(np.unique(GROUPS))]
        whole = np.concatenate([m[: len(m) // 4 * 4].reshape(-1, 4) for m in members])
        rest = [m[len(m) // 4 * 4 :] for m in members]
        expected = np.concatenate([rng.permutation(whole).reshape(-1), *rest])
        np.testing.assert_array_equal(sampler.permutation(2), expected)


def test_many_groups_take_one_pass():
    """RankGen on PG19: tens of thousands of documents, millions of windows."""
    count, documents = 200_000, 20_000
    sampler = SeededBatchSampler(count, 8, 0, groups=np.arange(count) % documents)
    started = time.process_time()
    sampler.permutation(0)
    grouped = time.process_time() - started
    started = time.process_time()
    for group in range(20):  # a thousandth of a search for each
        np.flatnonzero(sampler.groups == group)
    assert grouped < 1000 * (time.process_time() - started)
