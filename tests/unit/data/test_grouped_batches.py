"""Batches of one group (document) each."""

import numpy as np
import pytest

from common.config import UserError
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
