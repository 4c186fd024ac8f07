"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.distributed import process
from common.encoders.heads import MLPHead, ProjectedEncoder
from projects.dcl.module import DCL
from projects.dcl.objective import OneWayObjective, TwoViewObjective
from tests.projects.dcl.conftest import batch, config, method, random_views


def one_rank_loss(loss: str, host: str) -> float:
    """Loss of this rank's half of six pairs, for the mean over ranks."""
    z_1, z_2 = random_views(6)
    own = slice(3 * process.rank(), 3 * process.rank() + 3)
    if host == "simclr":
        return float(TwoViewObjective(method(loss))(z_1[own], z_2[own]).loss)
    return float(OneWayObjective(method(loss), in_batch=True)(z_1[own], z_2[own]).loss)


class Loss(nn.Module):
    """What DDP wraps."""

    def __init__(self, module: DCL) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict) -> Tensor:
        return self.module.losses(batch)["loss"]


def linear_network() -> ProjectedEncoder:
    """Without batch norm, whose statistics are those of the local batch."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 12))
    return ProjectedEncoder(encoder, MLPHead(12, [10], 8, norm="none"))  # type: ignore[arg-type]


def three_steps(host: str, distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps of eight images; each of two ranks holds four."""
    torch.manual_seed(0)
    overrides = ["model.out_dim=8", "method.queue_size=20", "method.support_size=20"]
    cfg = config(f"method.host={host}", "model.head_norm=none", *overrides)
    module = DCL(cfg, linear_network()).double()
    step = Loss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    own = slice(4 * process.rank(), 4 * process.rank() + 4) if distributed else slice(None)
    for number in range(3):
        whole = batch(8, 4, seed=number, dtype=torch.float64)
        optimizer.zero_grad()
        wrapped({k: v[own] for k, v in whole.items() if k != "skipped"}).backward()
        optimizer.step()
        module.after_optimizer_step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
