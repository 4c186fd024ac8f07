"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed.process import rank
from tests.distributed.wrapped import ModuleLoss, share_of
from tests.projects.simcse.conftest import module


def masked_term(distributed: bool) -> tuple[float, Tensor]:
    """Masked-word loss of eight sentences and its gradient; two ranks hold 3 and 18 masked
    words."""
    model = module("method.mlm_weight=1.0", "model.dropout=0.0").double().eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (16, 7), generator=generator)
    labels = torch.full_like(ids, -100)
    labels[0, 1:4] = ids[0, 1:4]
    labels[4:7, 1:7] = ids[4:7, 1:7]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "ids": torch.arange(8),
        "mlm_input_ids": ids,
        "mlm_labels": labels,
    }
    if distributed:
        batch = share_of(batch, slice(4 * rank(), 4 * rank() + 4), 2)
    loss = model.losses(batch)["mlm_loss"]
    loss.backward()
    words = model.encoder.tower.model.get_input_embeddings().weight  # the head's output matrix too
    return float(loss.detach()), words.grad.clone()


def gradient(gather_grad: str, distributed: bool) -> tuple[float, Tensor]:
    """Loss and gradient of the word embeddings over eight sentences; each of two ranks has four."""
    model = module(
        "method.mlm_weight=0.0", "model.dropout=0.0", f"method.gather_grad={gather_grad}"
    )
    model = model.double().train()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (16, 7), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "ids": torch.arange(8)}
    step = ModuleLoss(model)
    if distributed:
        batch = share_of(batch, slice(4 * rank(), 4 * rank() + 4), 2)
        step = DistributedDataParallel(step, find_unused_parameters=True)
    loss = step(batch)
    loss.backward()
    words = model.encoder.tower.model.get_input_embeddings().weight
    return float(loss.detach()), words.grad.clone()
