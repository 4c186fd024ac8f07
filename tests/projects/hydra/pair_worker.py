"""What each process of the two-rank test runs."""

import torch

from common.distributed import rank
from common.losses import HydraLoss
from projects.hydra.objective import dense_pair_loss


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
        options = {"exclude_self": True, "renormalise": form == "renormalised"}
        loss = dense_pair_loss(x, x, gate, labels, partners, 5.0, **options)
    loss.backward()
    return loss.item(), x.grad, gate.grad
