"""A training run on every rank of a pool, as torchrun would start it."""

import contextlib
import os
from collections.abc import Iterator

from torch.distributed.tensor import DTensor

from common.distributed import process
from common.engine.module import ContrastiveModule
from common.engine.run import train


@contextlib.contextmanager
def as_torchrun() -> Iterator[None]:
    """The variables that torchrun sets for the pool's processes on one node."""
    rank, count = process.rank(), process.world_size()
    values = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 1,
    }
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name)


def train_on_ranks(slug: str, words: list[str]) -> float:
    """Train a smoke config; the share of the parameters that this rank holds after its last
    step."""
    devices = f"trainer.devices={process.world_size()}"
    own = ["trainer.accelerator=cpu", devices, "tracking.wandb=disabled"]
    held: list[float] = []
    after = ContrastiveModule.on_before_optimizer_step

    def watched(self, optimizer):
        own = whole = 0
        for parameter in self.parameters():
            whole += parameter.numel()
            own += (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()
        held.append(own / whole)
        return after(self, optimizer)

    ContrastiveModule.on_before_optimizer_step = watched  # type: ignore[method-assign]
    try:
        with as_torchrun():
            train(slug, "smoke", [*own, *words])
    finally:
        ContrastiveModule.on_before_optimizer_step = after  # type: ignore[method-assign]
    return held[-1]
