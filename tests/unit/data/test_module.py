"""Loaders of the data module: validation batches of every rank, loader processes."""

import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from common.config import UserError
from common.data.module import ContrastiveData


class Squares(Dataset):
    """Numbers that are made by a function which does not pickle."""

    def __init__(self, count):
        self.count, self.one = count, lambda i: torch.tensor(i * i)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if isinstance(index, list):
            return torch.stack([self.one(i) for i, _ in index])
        return self.one(index)


def data(count, place=None, **options):
    module = ContrastiveData(Squares(8), batch_size=2, seed=0, val={"v": Squares(count)}, **options)
    if place is not None:
        module.trainer = SimpleNamespace(global_rank=place[0], world_size=place[1], max_steps=-1)
    return module


def rows(module):
    return [batch.tolist() for batch in module.val_dataloader()[0]]


def test_validation_on_one_process_keeps_the_order_of_the_set():
    assert rows(data(5)) == [[0, 1], [4, 9], [16]]


def test_every_rank_validates_on_equally_many_batches():
    assert [rows(data(5, (rank, 2))) for rank in range(2)] == [[[0, 4, 16]], [[1, 9]]]


def test_fewer_validation_samples_than_ranks_are_refused():
    with pytest.raises(UserError, match="cannot be shared among 2 processes"):
        data(1, (0, 2)).val_dataloader()


def test_loader_processes_take_data_sets_that_do_not_pickle():
    """Also where Python does not fork by itself, as from 3.14 on."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        module = data(3, num_workers=1)
        assert rows(module) == [[0, 1], [4]]
        assert len(next(iter(module.train_dataloader()))) == 2
    finally:
        multiprocessing.set_start_method(before, force=True)
