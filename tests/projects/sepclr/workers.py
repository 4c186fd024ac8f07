"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor, nn

from common.distributed import process
from projects.sepclr.module import SepCLR
from projects.sepclr.networks import Branch, Separator, SingleEncoder
from tests.distributed.wrapped import sgd_steps
from tests.projects.sepclr.conftest import batch, config


def linear_branch(out_dim: int = 8) -> Branch:
    """Without batch norm, whose statistics are those of the local batch."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 12))
    encoder.num_features = 12
    return Branch(encoder, 8, 10, out_dim, "none")


def three_steps(overrides: list[str], distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps of sixteen images; the ranks hold eight, targets unevenly."""
    torch.manual_seed(0)
    cfg = config(*overrides)
    single = cfg.method.objective == "simclr"
    network = (
        SingleEncoder(linear_branch())
        if single
        else Separator(linear_branch(), linear_branch(cfg.model.salient_dim))
    )
    module = SepCLR(cfg, network).double()
    own = slice(8 * process.rank(), 8 * process.rank() + 8) if distributed else slice(None)
    parts = []
    for number in range(3):
        whole = batch(16, 4, seed=number, dtype=torch.float64, num_factors=1)
        whole["target"] = torch.arange(16) < 5 + number  # almost all of rank 0, none of rank 1
        parts.append({k: v[own] for k, v in whole.items() if k != "skipped"})
    return sgd_steps(module, parts, distributed, lr=0.01)
