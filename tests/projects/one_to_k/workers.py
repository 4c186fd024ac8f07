"""What the two processes of the tests run; importable by name."""

from typing import Any

import torch
from torch import Tensor

from common.distributed import process
from common.losses.auxiliary.tokens import IGNORED
from common.losses.soft_itc import SoftItcLoss
from projects.one_to_k.objective import one_to_k_loss
from tests.distributed.wrapped import own_share, sgd_steps
from tests.projects.one_to_k.conftest import PLAIN, batch_of, module_of
from tests.unit.losses.golden import grad_norm, wave

WHOLE = 8  # samples of a step over all ranks


def golden_case(case: dict[str, Any], world_size: int) -> dict[str, Any]:
    """Loss and gradients of this rank's rows, through the project's functions."""
    b, k, d = case["b"], case.get("K", 1), case["d"]
    place = process.rank() if world_size > 1 else 0
    image = wave(world_size * b, d, 1).detach().view(world_size, b, d)[place].requires_grad_()
    text = wave(world_size * b * k, d, 2).detach().view(world_size, b * k, d)[place]
    text.requires_grad_()
    tau = torch.tensor(case["temp"], dtype=torch.float64, requires_grad=True)
    if "need_divm" in case:
        out = one_to_k_loss(image, text, tau, k, need_divm=case["need_divm"])
    else:
        own = torch.arange(b) + place * b  # without ids every pair has its own
        ids = own if case["idx"] is None else torch.tensor(case["idx"])
        out = SoftItcLoss()(image, text, 1 / tau, ids)
    out.loss.backward()
    return {
        "loss": out.loss.detach(),
        "grad_temp": tau.grad,
        "grad_norm_image": grad_norm(image),
        "grad_norm_text": grad_norm(text),
        "grad_image_first4": image.grad,
    }


def masked_term(distributed: bool) -> tuple[Tensor, Tensor]:
    """Masked-word loss of eight texts and a gradient; two ranks hold unequal numbers of masked
    words.
    """
    words = [
        *PLAIN,
        "method.objective=random_language",
        "method.mlm_weight=1.0",
        "model.image_widths=[8]",
    ]
    module = module_of(*words).double()
    module.eval()
    batch: Any = batch_of(*words, count=WHOLE)
    batch["labels"][1 : WHOLE // 2] = IGNORED
    own = own_share(distributed)
    rows = {k: v[own] for k, v in batch.items() if isinstance(v, Tensor)}
    rows["images"] = rows["images"].double()
    loss = module.losses(rows)["mlm"]  # type: ignore[arg-type]
    loss.backward()
    grad = next(p.grad for p in module.network.parameters() if p.grad is not None)
    return loss.detach(), grad.clone()


def three_steps(objective: str, distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps of eight samples on the contrast; each of two ranks has four."""
    words = [*PLAIN, f"method.objective={objective}", "model.image_widths=[8]"]
    module = module_of(*words).double()
    module.eval()  # batch norm would see the local batch alone
    own, batches = own_share(distributed), []
    for number in range(3):
        batch = batch_of(*words, count=WHOLE, epoch=number)
        rows: Any = {k: v[own] for k, v in batch.items() if isinstance(v, Tensor)}
        rows["images"] = rows["images"].double()
        batches.append(rows)
    return sgd_steps(module, batches, distributed, momentum=0.0)
