"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common import distributed as cd
from common.data.module import ContrastiveData
from common.data.samplers import SeededBatchSampler
from projects.nv_embed.data import stage_data, training_tasks
from projects.nv_embed.module import NvEmbed
from tests.projects.nv_embed.conftest import config, encoder


class Loss(nn.Module):
    """What DDP wraps."""

    def __init__(self, module: NvEmbed) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict) -> Tensor:
        return self.module.losses(batch)["loss"]


def batches(data: ContrastiveData, rank: int, world: int, size: int, count: int) -> list[dict]:
    """The first batches of a rank, as the loader reads them."""
    sampler = SeededBatchSampler(
        len(data.train_set), size // world, 0, rank=rank, world_size=world, shuffle=False,
        num_batches=count,
    )  # fmt: skip
    return [data.train_set[keys] for keys in sampler]


def three_steps(in_batch: bool, distributed: bool) -> dict[str, Tensor]:
    """Trained weights after three SGD steps of eight queries; each of two ranks has four."""
    cfg = config("model.lora_dropout=0", "data.batch_size=8")
    model = encoder("model.lora_dropout=0").double()
    module = NvEmbed(cfg, model, in_batch=in_batch).double().train()
    data = stage_data(cfg, model, training_tasks(cfg))
    step = Loss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05)
    place = (cd.rank(), 2) if distributed else (0, 1)
    for batch in batches(data, *place, 8, 3):
        optimizer.zero_grad()
        wrapped(batch).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in module.named_parameters() if v.requires_grad}
