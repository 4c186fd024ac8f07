"""What the two processes of the tests run; importable by name."""

from typing import Any
from unittest import mock

import torch
from torch import Tensor

from projects.ccp import asymmetric_norm
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.ccp.conftest import module_of, rows_of, training_set, tuned_module


def steps(kind: str, distributed: bool, own_moments: bool = False) -> dict[str, Tensor]:
    """State, gradients and losses after three SGD steps of eight pairs; each of two ranks has four.

    In the second step the second rank has no masked token, and two processes recompute their
    layers. With `own_moments` a rank normalises with the moments of its own rows.
    """
    if own_moments:
        with mock.patch.object(asymmetric_norm, "all_reduce_sum", lambda x: x):
            return steps(kind, distributed)
    tuned = kind == "finetune"
    if tuned:
        module = tuned_module().double()
    else:
        words = [f"method.norm={kind}", f"model.grad_checkpointing={str(distributed).lower()}"]
        module = module_of(*words, "method.norm_eps=1e-2").double()
        data = training_set()
    own = own_share(distributed)

    def batch_of(number: int) -> Any:
        if tuned:
            return _questions(own, number)
        batch = data[[(8 * (number % 2) + i, number // 2) for i in range(8)]]
        if number == 1:
            batch["labels"][1] = -100
        return rows_of(batch, own, 8)

    return sgd_steps(
        module,
        map(batch_of, range(3)),
        distributed,
        lr=0.05,
        momentum=0.0,
        broadcast_buffers=False,
        record=True,
    )


def _questions(own: slice, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 200, (3, 8, 6), generator=generator)[:, own]
    sides = {"query": ids[0], "key": torch.cat([ids[1], ids[2]])}
    return {k: {"input_ids": v, "attention_mask": torch.ones_like(v)} for k, v in sides.items()}
