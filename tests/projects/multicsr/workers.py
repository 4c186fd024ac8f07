"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed.process import rank
from tests.distributed.wrapped import ModuleLoss, share_of
from tests.projects.multicsr.conftest import module


def loss_and_gradient(variant: str, distributed: bool) -> tuple[float, Tensor]:
    """Loss and gradient of the word embeddings over eight triplets; each of two ranks has four.

    Some texts of different ranks are equal, so that the mask depends on the other rank's columns.
    """
    model = module("model.dropout=0.0", f"stage3.variant={variant}", "stage3.phi=0.9").double()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (24, 7), generator=generator)
    ids[[12, 14, 21]] = ids[
        [0, 1, 2]
    ]  # positives of rank 1 and a hard negative repeat anchors of rank 0
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "ids": torch.arange(8)}
    step = ModuleLoss(model.train())
    if distributed:
        batch = share_of(batch, slice(4 * rank(), 4 * rank() + 4), 3)
        step = DistributedDataParallel(step)
    loss = step(batch)
    loss.backward()
    words = model.encoder.tower.model.get_input_embeddings().weight
    assert model.masked[1] > 0
    return float(loss.detach()), words.grad.clone()
