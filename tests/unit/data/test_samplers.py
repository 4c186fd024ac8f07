"""Samplers are functions of seed, epoch and rank."""

from itertools import chain, islice

import pytest

from common.config import UserError
from common.data.samplers import SeededBatchSampler, evaluation_batches, sample_rng


def take(sampler, n):
    return list(islice(iter(sampler), n))


def test_every_epoch_visits_each_sample_once_in_another_order():
    batches = take(SeededBatchSampler(12, 4, seed=0), 6)
    epochs = [[*chain(*batches[:3])], [*chain(*batches[3:])]]
    for number, keys in enumerate(epochs):
        assert sorted(keys) == [(i, number) for i in range(12)]
    assert [i for i, _ in epochs[0]] != [i for i, _ in epochs[1]]


def test_position_is_exact_across_epochs():
    whole = take(SeededBatchSampler(10, 3, seed=5), 9)
    for first in (0, 2, 3, 7):
        sampler = SeededBatchSampler(10, 3, seed=5)
        sampler.start_at(first)
        assert take(sampler, 9 - first) == whole[first:]


def test_joint_batch_does_not_depend_on_the_number_of_ranks():
    one = take(SeededBatchSampler(16, 4, seed=1), 8)
    two = [SeededBatchSampler(16, 2, seed=1, rank=r, world_size=2) for r in range(2)]
    joint = [a + b for a, b in zip(*(take(s, 8) for s in two), strict=True)]
    assert joint == one


def test_seed_changes_the_order():
    assert take(SeededBatchSampler(16, 4, seed=1), 2) != take(SeededBatchSampler(16, 4, seed=2), 2)


def test_total_number_of_batches_ends_the_stream():
    sampler = SeededBatchSampler(8, 4, seed=0, num_batches=5)
    assert len(sampler) == 5
    assert len(list(sampler)) == 5


def test_too_small_data_set_names_the_batch_that_fits():
    with pytest.raises(UserError, match="set data.batch_size=1 or less"):
        SeededBatchSampler(3, 2, seed=0, world_size=2)
    with pytest.raises(UserError, match="use fewer processes"):
        SeededBatchSampler(3, 2, seed=0, world_size=4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_evaluation_shares_are_disjoint_complete_and_of_equally_many_batches(
    world_size, batch_size
):
    """Under FSDP a rank with a batch more than the others waits for them in vain."""
    for count in range(world_size, 30):
        shares = [evaluation_batches(count, batch_size, r, world_size) for r in range(world_size)]
        assert len({len(batches) for batches in shares}) == 1
        assert sorted(chain(*chain(*shares))) == list(range(count))
        assert {len(batch) for batch in chain(*shares)} <= set(range(1, batch_size + 2))


def test_evaluation_batches_of_one_process_are_those_of_the_set_in_order():
    assert evaluation_batches(5, 2) == [[0, 1], [2, 3], [4]]
    assert evaluation_batches(0, 2) == []


def test_fewer_evaluation_samples_than_processes_are_refused():
    with pytest.raises(UserError, match="2 samples cannot be shared among 3 processes"):
        evaluation_batches(2, 4, 0, 3)


def test_sample_rng_depends_on_all_its_arguments():
    base = sample_rng(0, 0, 0).integers(2**32)
    assert base == sample_rng(0, 0, 0).integers(2**32)
    for other in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 1)]:
        assert sample_rng(*other).integers(2**32) != base
