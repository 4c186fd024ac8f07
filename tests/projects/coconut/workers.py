"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common import distributed as cd
from projects.coconut.module import Coconut
from tests.projects.coconut.conftest import batch, module_of


class Loss(nn.Module):
    """What DDP wraps."""

    def __init__(self, module: Coconut) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict) -> Tensor:
        return self.module.losses(batch)["loss"]


def two_steps(overrides: list[str], distributed: bool, task: int = 1) -> dict[str, Tensor]:
    """State after two SGD steps of eight utterances; the ranks hold four, memory on one of them."""
    module = module_of(*overrides, task=task).double()
    if len(module.hypotheses):
        module.hypotheses.copy_(torch.tensor([2, 6, 4, 7, 3, 0, 0, 0, 0]))
    step = Loss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    own = slice(4 * cd.rank(), 4 * cd.rank() + 4) if distributed else slice(None)
    for number in range(2):
        whole = batch(8, 3, seed=number)
        whole["waveforms"] = whole["waveforms"].double()
        whole["tokens"][0, 3:] = torch.tensor([3, 0])  # rows of unequal length
        optimizer.zero_grad()
        wrapped({k: v[own] for k, v in whole.items() if k != "skipped"}).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
