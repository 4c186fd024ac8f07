"""What the two processes of the tests run; importable by name."""

from typing import Any
from unittest import mock

from torch import Tensor

from common.encoders import queue
from tests.distributed.wrapped import own_share, rows_of, sgd_steps
from tests.projects.cocosoda.conftest import batch, module_of


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
    own = own_share(distributed)

    def batch_of(number: int) -> Any:
        return rows_of(batch(8, seed=number), own)

    return sgd_steps(
        module,
        map(batch_of, range(3)),
        distributed,
        momentum=0.0,
        broadcast_buffers=False,
        record=True,
    )
