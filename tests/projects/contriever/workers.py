"""What the two processes of the tests run; importable by name."""

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from common.encoders import queue
from tests.distributed.wrapped import own_share, rows_of, sgd_steps
from tests.projects.contriever.conftest import batch, module_of


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
    own = own_share(distributed)

    def batch_of(number: int) -> Any:
        rows = rows_of(batch(8, seed=number), own)
        if tuned:  # golds, then as many negatives
            wrong = rows_of(batch(8, seed=number + 9), own)["key"]
            rows["key"] = {k: torch.cat([v, wrong[k]]) for k, v in rows["key"].items()}
        return rows

    return sgd_steps(
        module,
        map(batch_of, range(3)),
        distributed,
        momentum=0.0,
        broadcast_buffers=False,
        record=True,
    )
