"""The same training steps in one process and in two, for the tests of projects."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from tests.distributed.wrapped import ModuleLoss


def own_share(distributed: bool, rows: int = 4) -> slice:
    """Rows of a global batch that this process trains on."""
    return slice(rows * process.rank(), rows * (process.rank() + 1)) if distributed else slice(None)


def three_steps(
    module: Any, batch_of: Callable[[int], Any], *, lr: float, distributed: bool
) -> dict[str, Tensor]:
    """State, last gradients and losses after three SGD steps.

    Args:
        module: a `ContrastiveModule`, trained in place.
        batch_of: number of the step -> what this process is given.
        lr: learning rate.
        distributed: whether gradients are averaged over ranks, by DDP.
    """
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step, broadcast_buffers=False) if distributed else step
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=lr)
    losses = []
    for number in range(3):
        optimizer.zero_grad()
        loss = wrapped(batch_of(number))
        loss.backward()
        optimizer.step()
        module.after_optimizer_step()
        losses.append(collectives.all_gather_no_grad(loss.detach()[None]).mean())
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    grads = {
        f"grad {k}": p.grad.clone() for k, p in module.named_parameters() if p.grad is not None
    }
    return {**state, **grads, "losses": torch.stack(losses)}
