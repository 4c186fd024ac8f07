"""What DDP wraps in the tests of the projects, steps with it, and a rank's share of a batch of
views.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.distributed import collectives, process
from common.encoders.heads import MLPHead, ProjectedEncoder
from common.engine.module import ContrastiveModule


class ModuleLoss(nn.Module):
    """A project's module whose forward pass is its loss."""

    def __init__(self, module: ContrastiveModule) -> None:
        super().__init__()
        self.module = module
        # where DDP looks for what it leaves alone
        ignored = getattr(module, "_ddp_params_and_buffers_to_ignore", ())
        self._ddp_params_and_buffers_to_ignore = [f"module.{name}" for name in ignored]

    def forward(self, batch: Any) -> Tensor:
        """Scalar to minimise."""
        return self.module.losses(batch)["loss"]


def own_share(distributed: bool, rows: int = 4) -> slice:
    """Rows of a global batch that this process trains on."""
    return slice(rows * process.rank(), rows * (process.rank() + 1)) if distributed else slice(None)


def sgd_steps(
    module: ContrastiveModule,
    batches: Iterable[Any],
    distributed: bool,
    lr: float = 0.1,
    *,
    momentum: float = 0.9,
    broadcast_buffers: bool = True,
    record: bool = False,
) -> dict[str, Tensor]:
    """State after a step of SGD on each batch.

    Args:
        module: trained in place.
        batches: of this process: its share, if distributed.
        distributed: whether gradients are averaged over ranks, by DDP.
        lr: learning rate.
        momentum: of SGD.
        broadcast_buffers: whether DDP sends those of the first rank before every step.
        record: also ``losses``, mean over ranks of every step, and the last gradients as ``grad
            *``.
    """
    step = ModuleLoss(module)
    wrapped = (
        DistributedDataParallel(step, broadcast_buffers=broadcast_buffers) if distributed else step
    )
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = wrapped(batch)
        loss.backward()
        optimizer.step()
        module.after_optimizer_step()
        losses.append(
            collectives.all_gather_no_grad(loss.detach()[None]).mean() if record else loss
        )
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    if not record:
        return state
    grads = {
        f"grad {k}": p.grad.clone() for k, p in module.named_parameters() if p.grad is not None
    }
    return {**state, **grads, "losses": torch.stack(losses)}


def rows_of(batch: Any, own: slice) -> Any:
    """Some rows of a batch whose values are tensors or further batches."""
    if isinstance(batch, dict):
        return {name: rows_of(value, own) for name, value in batch.items()}
    return batch[own]


def linear_network() -> ProjectedEncoder:
    """For images of 4 pixels; without batch norm, whose statistics are those of the local batch."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 12))
    return ProjectedEncoder(encoder, MLPHead(12, [10], 8, norm="none"))  # type: ignore[arg-type]


def share_of(batch: dict[str, Tensor], own: slice, views: int) -> dict[str, Tensor]:
    """The samples `own` of a view-major batch, in all its views."""
    parts = {
        name: torch.cat([view[own] for view in value.chunk(views)])
        for name, value in batch.items()
        if name != "ids"
    }
    return {**parts, "ids": batch["ids"][own]}
