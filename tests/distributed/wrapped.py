"""What DDP wraps in the tests of the projects, steps with it, and a rank's share of a batch of views."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.encoders.heads import MLPHead, ProjectedEncoder
from common.engine.module import ContrastiveModule


class ModuleLoss(nn.Module):
    """A project's module whose forward pass is its loss."""

    def __init__(self, module: ContrastiveModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar to minimise."""
        return self.module.losses(batch)["loss"]


def sgd_steps(
    module: ContrastiveModule,
    batches: Iterable[dict[str, Tensor]],
    distributed: bool,
    lr: float = 0.1,
) -> dict[str, Tensor]:
    """State after a step of SGD with momentum on each batch (a rank's share, if distributed)."""
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        wrapped(batch).backward()
        optimizer.step()
        module.after_optimizer_step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


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
