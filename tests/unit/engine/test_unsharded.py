"""What gives a module back as it was before FSDP: nothing of its memory is held on to."""

import weakref

import pytest
import torch
from torch import nn

from common.engine.lifecycle.unsharded import Unsharded


@pytest.fixture
def module():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2, bias=False), nn.Linear(2, 3))
    module[2].weight = module[0].weight  # tied
    module[1].weight.requires_grad_(False)
    return module


def as_shards(module):
    """Other parameters in the place of a module's, as sharding leaves it."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(torch.zeros(1))


def test_the_whole_parameters_are_freed_while_the_shards_train(module):
    alive = [weakref.ref(p) for p in module.parameters()]
    before = Unsharded(module)
    as_shards(module)
    assert len(alive) == 4
    assert [ref() for ref in alive] == [None] * 4
    assert before.root is module


def test_shapes_kinds_ties_and_hooks_come_back(module):
    before = Unsharded(module)
    as_shards(module)
    module[0].register_forward_hook(lambda *arguments: None)
    module.__class__ = type("Sharded", (nn.Sequential,), {})
    before.restore()
    assert type(module) is nn.Sequential
    assert not module[0]._forward_hooks
    assert module[0].weight is module[2].weight
    assert [tuple(p.shape) for p in module.parameters()] == [(3, 2), (3,), (2, 3), (3,)]
    assert [p.requires_grad for p in module.parameters()] == [True, True, False, True]
    assert module[1].bias is None
