"""A fit of eight or more steps, validated every second one, that a test kills at a chosen place."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader

from common.engine import checkpoint as ckpt
from common.engine.checkpoint import RunCheckpoint, WholeFiles


class Killed(Exception):
    """What stands for the end of the process."""


class Counter(LightningModule):
    """Its weight is the number of steps made; validation gives the values of its steps."""

    def __init__(self, values: Mapping[int, float]) -> None:
        super().__init__()
        self.values = values
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return -self.weight.sum()  # a gradient of -1, so that a step adds 1

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val/score", self.values[self.trainer.global_step])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class KilledAt(Callback):
    """Kills at a step, in a hook."""

    def __init__(self, step: int, hook: str) -> None:
        self.step = step
        setattr(self, hook, self.kill)

    def kill(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            raise Killed


def fit(
    folder: Path,
    values: Mapping[int, float],
    *callbacks: Callback,
    keep: int = 2,
    every: int = 2,
    logger: Logger | None = None,
) -> int:
    """From the newest checkpoint on, as long as there are values; the step at which it ended."""
    start, _ = ckpt.newest_intact(folder, validated_every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message=".*was nan whenever")  # ours
        trainer = Trainer(
            accelerator="cpu",
            max_steps=max(values),
            max_epochs=-1,
            val_check_interval=2,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            logger=logger or False,
            enable_progress_bar=False,
            enable_model_summary=False,
            plugins=[WholeFiles()],
            default_root_dir=folder,
            callbacks=[*callbacks, RunCheckpoint(folder, every, keep, monitor="val/score")],
        )
        data = DataLoader(torch.zeros(20, 1)), DataLoader(torch.zeros(1, 1))
        trainer.fit(Counter(values), *data, ckpt_path=start, weights_only=True)
    return trainer.global_step
