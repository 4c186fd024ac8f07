"""Batch norm over ranks: equal to the ordinary one on one process, and to the whole batch on
two."""

import pytest
import torch
from torch import nn

from common.encoders.sync_norm import SyncBatchNorm, synchronise_batch_norm


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.BatchNorm1d(5, affine=False),
    )


def test_one_process_is_an_ordinary_batch_norm_with_the_same_keys():
    plain, synced = network(), synchronise_batch_norm(network())
    assert plain.state_dict().keys() == synced.state_dict().keys()
    assert sum(isinstance(m, SyncBatchNorm) for m in synced.modules()) == 2
    x = torch.randn(6, 3, 4, 4)
    for mode in (True, False):
        plain.train(mode), synced.train(mode)
        assert torch.equal(plain(x), synced(x))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, synced.state_dict()[name]), name


def test_timm_s_norm_keeps_its_activation():
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    plain = BatchNormAct2d(3)
    synced = synchronise_batch_norm(nn.Sequential(BatchNormAct2d(3)))
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(plain(x), synced(x))
    assert float(synced(x).detach().min()) == 0


def test_cumulative_averages_are_refused():
    with pytest.raises(ValueError, match="momentum=None"):
        synchronise_batch_norm(nn.BatchNorm1d(3, momentum=None))
