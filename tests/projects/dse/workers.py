"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from projects.dse.module import first_student
from projects.dse.stages import student_data, task_pairs
from tests.distributed.wrapped import ModuleLoss
from tests.projects.dse.conftest import config


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights and losses after three SGD steps of eight pairs; each of two ranks has four."""
    cfg = config("student.dropout=0.0", "student.pool.dropout=0.0", "student.pool.kind=bilstm")
    module = first_student(cfg).double()
    count = len(task_pairs(cfg.data, "train", cfg.seed))
    teacher = torch.arange(3.0 * count).sin().view(count, 3)
    train = student_data(cfg, module, teacher).train_set
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step, broadcast_buffers=False) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    own = range(4 * process.rank(), 4 * process.rank() + 4) if distributed else range(8)
    losses = []
    for number in range(3):
        optimizer.zero_grad()
        batch = train[[(8 * number + i, 0) for i in own]]
        loss = wrapped({k: v.double() if v.is_floating_point() else v for k, v in batch.items()})
        loss.backward()
        optimizer.step()
        losses.append(collectives.all_gather_no_grad(loss.detach()[None]).mean())
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    return {**state, "losses": torch.stack(losses)}
