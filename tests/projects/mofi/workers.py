"""What the two processes of the tests run; importable by name."""

from typing import Any

import torch
from torch import Tensor

from common.distributed import process
from projects.mofi.objective import classification_loss
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.mofi.conftest import batch_of, module_of
from tests.unit.losses.golden import flat, grad_norm, wave

WHOLE = 8  # images of a step over all ranks
RATE = 0.05


def golden_case(case: dict[str, Any], distributed: bool) -> dict[str, Any]:
    """Loss and gradients of a golden case; two ranks share rows and classes."""
    b, c, d = case["B"], case["C"], case["D"]
    place, ranks = (process.rank(), 2) if distributed else (0, 1)
    f = wave(b, d, 1).detach()[place * b // ranks : (place + 1) * b // ranks].requires_grad_()
    w = flat((c, d), "sin", 0.3, 0.7).detach().requires_grad_()
    ids = torch.tensor([i for i in case["class_set"] if i % ranks == place])
    labels = ((3 * torch.arange(b) + 1) % c)[place * b // ranks : (place + 1) * b // ranks]
    out = classification_loss(f, w[ids], ids, labels, scale=case["scale"], margin=case["margin"])
    out.backward()
    grad = w.grad / ranks  # nobody averages class vectors
    return {"loss": out.detach(), "features": f.grad / ranks, "matrix": grad, "norm": grad_norm(f)}


def three_steps(words: list[str], distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps of eight images; each of two ranks has four and half the
    classes."""
    module = module_of(*words).double()
    module.current_lr = lambda: RATE  # type: ignore[method-assign]
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()  # its statistics would be those of the local batch
    if distributed:
        module.setup("fit")
        assert module.classifier is None or module.classifier.matrix.shards == 2
    own, batches = own_share(distributed), []
    for number in range(3):
        batch = batch_of(*words, count=WHOLE, epoch=number)
        rows: Any = {k: v[own] for k, v in batch.items() if isinstance(v, Tensor)}
        rows["images"] = rows["images"].double()
        batches.append(rows)
    state = sgd_steps(module, batches, distributed, lr=RATE, momentum=0.0)
    module.teardown("fit")
    return state | {f"after {k}": v.detach().clone() for k, v in module.state_dict().items()}
