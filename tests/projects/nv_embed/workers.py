"""What the two processes of the tests run; importable by name."""

import os

import torch
from lightning.fabric.strategies import fsdp as fabric_fsdp
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.strategies import fsdp as lightning_fsdp
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    StateDictType,
)
from torch.nn.parallel import DistributedDataParallel

from common.data.module import ContrastiveData
from common.data.samplers import SeededBatchSampler
from common.distributed import process
from common.engine import trainer as engine
from common.engine.run import train
from common.families.retrieval.training_sets import stage_data, training_tasks
from projects.nv_embed.module import NvEmbed
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


class CpuFSDP(FSDPStrategy):
    """Lightning refuses the class itself without a GPU; torch shards on the CPU if it is told to."""

    def _setup_model(self, model):
        return FullyShardedDataParallel(
            model, mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy, device_id=torch.device("cpu"), **self.kwargs,
        )  # fmt: skip


def full_state(module, world_size: int, rank0_only: bool = True):
    """Lightning 2.6.6 offloads to the CPU also what is there, which frees it while it is read."""
    kinds = {"offload_to_cpu": False, "rank0_only": rank0_only}
    return FullyShardedDataParallel.state_dict_type(
        module, StateDictType.FULL_STATE_DICT, FullStateDictConfig(**kinds),
        FullOptimStateDictConfig(**kinds),
    )  # fmt: skip


def train_sharded(folder: str, words: list[str]) -> tuple[str, int]:
    """Runs on every rank of the pool, as torchrun would start it: run folder, sharded modules seen."""
    place = {
        "RANK": process.rank(),
        "LOCAL_RANK": process.rank(),
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
    }
    external = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in {**place, **external}.items()})
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=fsdp"]
    plain, losses, seen = engine.FSDPStrategy, NvEmbed.losses, []

    def watched(self, batch):
        root = self.trainer.strategy.model
        seen.append(sum(isinstance(m, FullyShardedDataParallel) for m in root.modules()))
        return losses(self, batch)

    engine.FSDPStrategy, NvEmbed.losses = CpuFSDP, watched
    offloading, name = fabric_fsdp._get_full_state_dict_context, "_get_full_state_dict_context"
    for library in (fabric_fsdp, lightning_fsdp):
        setattr(library, name, full_state)
    try:
        run = train("nv_embed", "smoke", [f"runs_dir={folder}", *two, *SHARDED, *words])
        return str(run), max(seen, default=0)
    finally:
        engine.FSDPStrategy, NvEmbed.losses = plain, losses
        for library in (fabric_fsdp, lightning_fsdp):
            setattr(library, name, offloading)
        for variable in (*place, *external):
            os.environ.pop(variable)
