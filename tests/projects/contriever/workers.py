"""What the two processes of the tests run; importable by name."""

from unittest import mock

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from common.encoders import queue
from tests.distributed.wrapped import ModuleLoss
from tests.projects.contriever.conftest import batch, module_of, share_of


def three_steps(objective: str, distributed: bool, own_queue: bool = False) -> dict[str, Tensor]:
    """State, gradients and losses after three SGD steps of eight pairs; each of two ranks has four.

    With `own_queue` a rank queues its own keys only.
    """
    if own_queue:
        with mock.patch.object(queue, "all_gather_no_grad", lambda x: x):
            return three_steps(objective, distributed)
    tuned = objective == "finetune"
    words = ["model.dropout=0.0", "finetune.temperature=1", "method.temperature=1"]
    words += [] if tuned else [f"method.objective={objective}"]
    module = module_of(*words, finetune=tuned).double()
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step, broadcast_buffers=False) if distributed else step
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    losses = []
    for number in range(3):
        rows = share_of(batch(8, seed=number), own)
        if tuned:  # golds, then as many negatives
            wrong = share_of(batch(8, seed=number + 9), own)["key"]
            rows["key"] = {k: torch.cat([v, wrong[k]]) for k, v in rows["key"].items()}
        optimizer.zero_grad()
        loss = wrapped(rows)
        loss.backward()
        optimizer.step()
        module.after_optimizer_step()
        losses.append(collectives.all_gather_no_grad(loss.detach()[None]).mean())
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    grads = {
        f"grad {k}": p.grad.clone() for k, p in module.named_parameters() if p.grad is not None
    }
    return {**state, **grads, "losses": torch.stack(losses)}
