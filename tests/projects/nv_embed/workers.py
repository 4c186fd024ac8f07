"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from common.data.module import ContrastiveData
from common.data.samplers import SeededBatchSampler
from common.distributed import process
from common.engine.run import train
from common.families.retrieval.training_sets import stage_data, training_tasks
from projects.nv_embed.module import NvEmbed
from tests.distributed.launched import as_torchrun
from tests.projects.nv_embed.conftest import config, encoder

SHARDED = ["tracking.wandb=disabled", "eval.tasks=[retrieval]", "eval.primary=[retrieval]",
         "model.lora_dropout=0", "optim.lr=0.05", "method.stage_2_lr=0.05",
         "optim.eps=0.1",  # else AdamW turns rounding of small gradients into whole steps
         "optim.weight_decay=1", "trainer.gradient_clip_val=1.0"]  # fmt: skip


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
    place = (process.rank(), 2) if distributed else (0, 1)
    for batch in batches(data, *place, 8, 3):
        optimizer.zero_grad()
        wrapped(batch).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in module.named_parameters() if v.requires_grad}


def train_sharded(folder: str, words: list[str]) -> tuple[str, int]:
    """Runs on every rank of the pool, as torchrun would start it: run folder, sharded modules seen."""
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=fsdp"]
    losses, seen = NvEmbed.losses, []

    def watched(self, batch):
        seen.append(sum(isinstance(m, FSDPModule) for m in self.modules()))
        return losses(self, batch)

    NvEmbed.losses = watched
    try:
        with as_torchrun():
            run = train("nv_embed", "smoke", [f"runs_dir={folder}", *two, *SHARDED, *words])
        return str(run), max(seen, default=0)
    finally:
        NvEmbed.losses = losses
