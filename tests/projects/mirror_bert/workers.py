"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed import process
from tests.distributed.wrapped import ModuleLoss, share_of
from tests.projects.mirror_bert.conftest import NO_NOISE, batch, config, golden_views, module_of

ROWS = 8


def loss_of_half(case: dict, gather: bool) -> float:
    """Loss of this rank's half of a golden case, for the mean over ranks."""
    cfg = config(f"method.temperature={case['temperature']}", f"method.gather={gather}")
    half = case["B"] // 2
    own = slice(half * process.rank(), half * process.rank() + half)
    view_1, view_2 = (view.detach()[own] for view in golden_views(case))
    return float(module_of(cfg).contrast(view_1, view_2).loss)


def three_steps(distributed: bool, gather: bool = True) -> dict[str, Tensor]:
    """State after three SGD steps of eight strings; each of two ranks holds four."""
    cfg = config(*NO_NOISE, f"method.gather={gather}")
    module = module_of(cfg).double().train()
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    whole, half = batch(cfg, module, ROWS), ROWS // 2
    own = slice(half * process.rank(), half * process.rank() + half) if distributed else slice(None)
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(share_of(whole, own, 2)).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
