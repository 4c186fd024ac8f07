"""Frozen copies of a network: the teacher of a continual learner."""

import copy
from typing import Generic, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


class FrozenTeacher(nn.Module, Generic[M]):
    """A deep copy that stays as it is: no gradients, always in eval mode.

    Its weights are part of the state dict of whoever holds it, so a checkpoint restores it.

    Source: Li & Hoiem 2017, "Learning without Forgetting", arXiv 1606.09282 (the old network as
    teacher).

    Args:
        network: copied, not changed.

    >>> teacher = FrozenTeacher(nn.Dropout()).train()
    >>> teacher.network.training
    False
    """

    network: M

    def __init__(self, network: M) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenTeacher[M]":
        """Stays in eval mode."""
        return super().train(False)
