"""What the two processes of the tests run; importable by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.b_prop import objective
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.b_prop.conftest import batch_of, module_of, share_of


def local_masked_lm(head: nn.Module, states: Tensor, labels: Tensor) -> Tensor:
    """The mean over this rank's own masked words, which two ranks must not take."""
    return F.cross_entropy(head(states[labels != -100]), labels[labels != -100])


def two_steps(
    distributed: bool, local_mean: bool = False, words: Sequence[str] = ()
) -> dict[str, Tensor]:
    """State and losses after two SGD steps of eight pairs; each of two ranks has four.

    With `local_mean` a rank takes the mean over its own masked words.
    """
    original = objective.masked_lm_loss
    if local_mean:
        objective.masked_lm_loss = local_masked_lm
    try:
        module = module_of(*words).double()
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        own = own_share(distributed)
        batches = [share_of(batch_of(8, number), own) for number in range(2)]
        return sgd_steps(module, batches, distributed, lr=0.5, momentum=0.0, record=True)
    finally:
        objective.masked_lm_loss = original
