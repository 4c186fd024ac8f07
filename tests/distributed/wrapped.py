"""What DDP wraps in the tests of the projects, and a rank's share of a batch of views."""

import torch
from torch import Tensor, nn

from common.engine.module import ContrastiveModule


class ModuleLoss(nn.Module):
    """A project's module whose forward pass is its loss."""

    def __init__(self, module: ContrastiveModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar to minimise."""
        return self.module.losses(batch)["loss"]


def share_of(batch: dict[str, Tensor], own: slice, views: int) -> dict[str, Tensor]:
    """The samples `own` of a view-major batch, in all its views."""
    parts = {
        name: torch.cat([view[own] for view in value.chunk(views)])
        for name, value in batch.items()
        if name != "ids"
    }
    return {**parts, "ids": batch["ids"][own]}
