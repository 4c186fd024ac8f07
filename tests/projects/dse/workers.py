"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor

from projects.dse.module import first_student
from projects.dse.stages import student_data, task_pairs
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.dse.conftest import config


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """Weights and losses after three SGD steps of eight pairs; each of two ranks has four."""
    cfg = config("student.dropout=0.0", "student.pool.dropout=0.0", "student.pool.kind=bilstm")
    module = first_student(cfg).double()
    count = len(task_pairs(cfg.data, "train", cfg.seed))
    teacher = torch.arange(3.0 * count).sin().view(count, 3)
    train = student_data(cfg, module, teacher).train_set
    places = range(24)
    batches = []
    for number in range(3):
        rows = train[[(i, 0) for i in places[8 * number : 8 * number + 8][own_share(distributed)]]]
        batches.append({k: v.double() if v.is_floating_point() else v for k, v in rows.items()})
    return sgd_steps(
        module, batches, distributed, momentum=0.0, broadcast_buffers=False, record=True
    )
