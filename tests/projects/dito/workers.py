"""What the two processes of the tests run; importable by name."""

from typing import Any

import torch
from torch import Tensor

from common.distributed.process import rank
from projects.dito.objective import paired_focal
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.dito.conftest import batch_of, module_of, sines


def three_steps(stage: str, words: list[str], distributed: bool) -> dict[str, Tensor]:
    """Weights after three steps of eight images; each of two ranks has four."""
    module = module_of(stage, "method.boxes=3", *words).double()
    own, batches = own_share(distributed), []
    for number in range(3):
        batch = batch_of(module, count=8, epoch=number)
        rows: Any = {k: v[own] for k, v in batch.items() if k != "skipped"}
        rows["images"] = rows["images"].double()
        if "boxes" in rows:
            rows["boxes"] = [b.double() for b in rows["boxes"]]
        batches.append(rows)
    return sgd_steps(module, batches, distributed, lr=0.02)


def unequal_focal(distributed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, hits and gradient of the images of eight pairs; of two ranks one has five, one
    three."""
    pairs = sines(2, 8, 4).flip(1)
    image, text = pairs[0].requires_grad_(), pairs[0].detach() + 0.1 * pairs[1]
    own = slice(0, 5) if rank() == 0 else slice(5, 8)
    rows = own if distributed else slice(None)
    loss, hits = paired_focal(image[rows], text[rows], torch.tensor(9.0), 0.4, 1.0)
    loss.backward()
    return loss.detach(), hits, image.grad
