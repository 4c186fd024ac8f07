"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.distributed.process import rank
from projects.rankgen.data import TripleBatches, train_triples
from projects.rankgen.module import RankGen
from tests.distributed.wrapped import ModuleLoss
from tests.projects.rankgen.conftest import config, encoder


def three_steps(overrides: list[str], distributed: bool) -> dict[str, Tensor]:
    """Weights after three SGD steps of eight triples (two ranks hold four each), and gradients."""
    cfg = config(*overrides)
    module = RankGen(cfg, encoder(dropout_rate=0.0)).double()
    batches = TripleBatches(train_triples(cfg), module.encoder, cfg.method.negatives != "inbook")
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for number in range(3):
        rows = list(range(8 * number, 8 * number + 8))
        own = rows[4 * rank() : 4 * rank() + 4] if distributed else rows
        optimizer.zero_grad()
        wrapped(batches[[(i, 0) for i in own]]).backward()
        optimizer.step()
    state = {k: v.detach().clone() for k, v in module.state_dict().items()}
    return state | {f"grad {k}": p.grad.clone() for k, p in module.named_parameters()}
