"""What the two processes of the tests run; importable by name."""

from unittest import mock

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from common.encoders import queue
from tests.distributed.wrapped import ModuleLoss, share_of
from tests.projects.esimcse.conftest import batch, module_of


def three_steps(decay: float, distributed: bool, own_queue: bool = False) -> dict[str, Tensor]:
    """State and losses after three SGD steps of eight sentences; each of two ranks holds four.

    With `own_queue` a rank queues its own keys only.
    """
    if own_queue:
        with mock.patch.object(queue, "all_gather_no_grad", lambda x: x):
            return three_steps(decay, distributed)
    module = module_of("model.dropout=0.0", "queue.size=20", f"momentum.decay={decay}").double()
    step = ModuleLoss(module)
    # without DDP's copies of the first rank's buffers: the queues agree by themselves, or not
    wrapped = DistributedDataParallel(step, broadcast_buffers=False) if distributed else step
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    losses = []
    for number in range(3):
        optimizer.zero_grad()
        loss = wrapped(share_of(batch(8, seed=number), own, 2))
        loss.backward()
        optimizer.step()
        module.after_optimizer_step()
        losses.append(collectives.all_gather_no_grad(loss.detach()[None]).mean())
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    return state | {"losses": torch.stack(losses)}
