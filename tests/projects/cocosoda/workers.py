"""What the two processes of the tests run; importable by name."""

from unittest import mock

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from common.encoders import queue
from tests.distributed.wrapped import ModuleLoss
from tests.projects.cocosoda.conftest import batch, module_of, share_of


def three_steps(stage: str, distributed: bool, own_queue: bool = False) -> dict[str, Tensor]:
    """State, gradients and losses after three SGD steps of eight pairs; each of two ranks has four.

    With `own_queue` a rank queues its own vectors only.
    """
    if own_queue:
        with mock.patch.object(queue, "all_gather_no_grad", lambda x: x):
            return three_steps(stage, distributed)
    words = ["model.dropout=0.0", "method.temperature=1", "finetune.logit_scale=1"]
    words += ["method.original_keys=momentum"] if stage == "momentum" else []
    module = module_of(*words, finetune=stage == "finetune").double()
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step, broadcast_buffers=False) if distributed else step
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    losses = []
    for number in range(3):
        optimizer.zero_grad()
        loss = wrapped(share_of(batch(8, seed=number), own))
        loss.backward()
        optimizer.step()
        module.after_optimizer_step()
        losses.append(collectives.all_gather_no_grad(loss.detach()[None]).mean())
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    grads = {
        f"grad {k}": p.grad.clone() for k, p in module.named_parameters() if p.grad is not None
    }
    return {**state, **grads, "losses": torch.stack(losses)}
