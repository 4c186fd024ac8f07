"""What the two processes of the tests run; importable by name."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from projects.b_prop import objective
from tests.distributed.wrapped import ModuleLoss
from tests.projects.b_prop.conftest import batch_of, module_of, share_of


def two_steps(
    distributed: bool, local_mean: bool = False, words: Sequence[str] = ()
) -> dict[str, Tensor]:
    """State and losses after two SGD steps of eight pairs; each of two ranks has four.

    With `local_mean` a rank takes the mean over its own masked words.
    """
    original = objective.rank_mean_of_sums
    if local_mean:
        objective.rank_mean_of_sums = lambda total, count: total / count
    try:
        module = module_of(*words).double()
        for part in module.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        step = ModuleLoss(module)
        wrapped = DistributedDataParallel(step) if distributed else step
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
        losses = []
        for number in range(2):
            optimizer.zero_grad()
            loss = wrapped(share_of(batch_of(8, number), own))
            loss.backward()
            optimizer.step()
            losses.append(collectives.all_gather_no_grad(loss.detach()[None]).mean())
    finally:
        objective.rank_mean_of_sums = original
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    return {**state, "losses": torch.stack(losses)}
