"""What the two processes of the tests run; importable by name."""

from unittest import mock

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from common.encoders import asymmetric_norm
from tests.distributed.wrapped import ModuleLoss
from tests.projects.ccp.conftest import module_of, rows_of, training_set, tuned_module


def steps(kind: str, distributed: bool, own_moments: bool = False) -> dict[str, Tensor]:
    """State, gradients and losses after three SGD steps of eight pairs; each of two ranks has four.

    With `own_moments` a rank normalises with the moments of its own rows.
    """
    if own_moments:
        with mock.patch.object(asymmetric_norm, "all_reduce_sum", lambda x: x):
            return steps(kind, distributed)
    tuned = kind == "finetune"
    if tuned:
        module = tuned_module().double()
    else:
        module = module_of(f"method.norm={kind}", "method.norm_eps=1e-2").double()
        data = training_set()
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step, broadcast_buffers=False) if distributed else step
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05)
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    losses = []
    for number in range(3):
        if tuned:
            rows = _questions(own, number)
        else:
            rows = rows_of(data[[(8 * (number % 2) + i, number // 2) for i in range(8)]], own, 8)
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


def _questions(own: slice, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 200, (3, 8, 6), generator=generator)[:, own]
    sides = {"query": ids[0], "key": torch.cat([ids[1], ids[2]])}
    return {k: {"input_ids": v, "attention_mask": torch.ones_like(v)} for k, v in sides.items()}
