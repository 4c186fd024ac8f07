"""What other processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed.process import rank
from projects.trend.module import Trend
from tests.distributed.wrapped import ModuleLoss
from tests.projects.trend.conftest import as_double, config, samples_of


def three_steps(overrides: list[str], distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps of four drives; the ranks hold two each."""
    torch.manual_seed(0)
    cfg = config("method.jitter=false", *overrides)
    module = Trend(cfg).double()
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    samples = samples_of("method.jitter=false", *overrides)
    rows = range(2 * rank(), 2 * rank() + 2) if distributed else range(4)
    for epoch in range(3):
        batch = as_double(samples[[(i, epoch) for i in rows]])
        optimizer.zero_grad()
        wrapped(batch).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
