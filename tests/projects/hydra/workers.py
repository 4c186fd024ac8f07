"""What each process of the two-rank tests runs."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed.process import rank
from common.losses.functional.gated_pairs import dense_pair_loss
from common.losses.multi_positive import HydraLoss
from tests.distributed.wrapped import ModuleLoss
from tests.projects.hydra.conftest import batch_of, module_of


def rows(total, dim):
    """Embeddings, gates, labels and partners of the whole batch, float64."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(total, dim, generator=generator, dtype=torch.float64)
    gate = torch.rand(total, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (total,), generator=generator)
    return x, gate, labels, labels[torch.randperm(total, generator=generator)]


def pair_run(form, local, dim, world_size):
    """Loss and gradients of this rank's rows."""
    own = slice(rank() * local, (rank() + 1) * local)
    x, gate, labels, partners = (t[own] for t in rows(local * world_size, dim))
    x, gate = x.clone().requires_grad_(), gate.clone().requires_grad_()
    if form == "fused":
        loss = HydraLoss()(x, gate, labels, partners, 5.0).loss
    else:
        options = {name: name == form for name in ("renormalise", "row_mean")}
        loss = dense_pair_loss(x, x, gate, labels, partners, 5.0, exclude_self=True, **options)
    loss.backward()
    return loss.item(), x.grad, gate.grad


def three_steps(overrides: list[str], distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps of sixteen images; two ranks hold eight each.

    In evaluation mode, since batch norm would see the local batch only.
    """
    module = module_of(*overrides).double().eval()
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    own = slice(8 * rank(), 8 * rank() + 8) if distributed else slice(None)
    for number in range(3):
        whole = batch_of(16, classes=4, seed=number, views=module.cfg.data.views)
        part = {k: v[own].double() if v.is_floating_point() else v[own] for k, v in whole.items()}
        optimizer.zero_grad()
        wrapped(part).backward()
        optimizer.step()
        module.after_optimizer_step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
