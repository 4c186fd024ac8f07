"""What the two processes of the tests run; importable by name."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from common.data.module import ContrastiveData
from common.data.samplers import SeededBatchSampler
from common.engine.run import train
from common.engine.sharding import shard
from projects.nv_embed.module import NvEmbed
from tests.distributed.launched import as_torchrun
from tests.figures import unrendered
from tests.projects.nv_embed.conftest import TEXTS, config, encoder

SHARDED = [
    "tracking.wandb=disabled",
    "eval.lexical=false",
    "eval.tasks=[retrieval]",
    "eval.primary=[retrieval]",
    "model.lora_dropout=0",
    "optim.lr=0.05",
    "method.stage_2_lr=0.05",
    "optim.eps=0.1",  # else AdamW turns rounding of small gradients into whole steps
    "optim.weight_decay=1",
    "trainer.gradient_clip_val=1.0",
    "trainer.checkpoint_every_n_steps=4",
]


def batches(data: ContrastiveData, rank: int, world: int, size: int, count: int) -> list[dict]:
    """The first batches of a rank, as the loader reads them."""
    sampler = SeededBatchSampler(
        len(data.train_set),
        size // world,
        0,
        rank=rank,
        world_size=world,
        shuffle=False,
        num_batches=count,
    )
    return [data.train_set[keys] for keys in sampler]


def mixed_step() -> tuple[set[str], set[str]]:
    """A step of a sharded module whose frozen weights are in bfloat16: types of what is trained and
    of the rest.
    """
    words = ("model.weights=bfloat16", "model.lora_dropout=0")
    module = NvEmbed(config(*words), encoder(*words), in_batch=True).train()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",))
    shard(module, module.fsdp_units(), mesh["data_parallel"], "bf16-mixed")
    trained = [p for p in module.parameters() if p.requires_grad]
    told = {"query": (TEXTS, "find"), "document": (TEXTS * 3, "")}
    batch = {side: module.encoder.tokenize(*given) for side, given in told.items()}
    kinds = torch.full((4,), -1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_step({**batch, "task": kinds, "label": kinds}, 0)
    loss.backward()
    torch.optim.AdamW(trained, lr=2e-5, foreach=False).step()
    grads = {str(p.grad.dtype) for p in trained if p.grad is not None}
    return grads | {str(p.dtype) for p in trained}, {
        str(p.dtype) for p in module.parameters() if not p.requires_grad
    }


def train_sharded(folder: str, words: list[str]) -> tuple[str, int]:
    """Runs on every rank of the pool, as torchrun would start it: run folder, sharded modules
    seen."""
    two = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=fsdp"]
    losses, seen = NvEmbed.losses, []

    def watched(self, batch):
        seen.append(sum(isinstance(m, FSDPModule) for m in self.modules()))
        return losses(self, batch)

    NvEmbed.losses = watched
    try:
        with as_torchrun(), unrendered():
            run = train("nv_embed", "smoke", [f"runs_dir={folder}", *two, *SHARDED, *words])
        return str(run), max(seen, default=0)
    finally:
        NvEmbed.losses = losses
