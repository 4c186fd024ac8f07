#!/usr/bin/env python3
"""SimCLR training speed: our module and data against lightly's parts, same Lightning trainer.

    python benchmarks/bench_vision_training.py [--quick] [--with-peers]

Both train a ResNet-18 with a two-layer head of 2,048 on the same CIFAR-10 images at 32 px: same
augmentation, batch size, temperature, optimiser, weights and trainer options, no logging, no loader
processes, one thread. Theirs is composed as their SimCLR example is: their transform on PIL images,
torch's collate function, each view through the network in turn, their head and their NT-Xent loss.
Rounds alternate; reported are medians of wall time and of CPU time, the first step left out.

Writes benchmarks/results/vision_training.csv and vision_training.png, and the table of
docs/performance.md.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measure import results_folder
from report_tables import write_tables
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F
from vision_report import OURS, Seconds, interleaved, summary, write

from common.config import load
from common.data.image.labelled import load_cifar10

WIDTH, TEMPERATURE, LR = 2048, 0.5, 0.06
SETTINGS = (
    "data.source=bundled",
    "data.image_size=32",
    "data.crop_scale=[0.08,1.0]",
    "data.jitter=[0.4,0.4,0.4,0.1]",
    "data.jitter_prob=0.8",
    "data.grey_prob=0.2",
    "model.backbone=resnet18",
    "model.cifar_stem=false",
    f"model.projector=[{WIDTH}]",
    f"model.out_dim={WIDTH}",
    "model.projector_last_norm=true",
    "method.host=simclr",
    "method.loss=infonce",
    f"method.temperature={TEMPERATURE}",
    "method.reduction=mean",
    "optim.name=sgd",
    f"optim.lr={LR}",
    "optim.momentum=0.0",
    "optim.weight_decay=0.0",
    "optim.warmup_steps=0",
    "optim.schedule=constant",
    "trainer.log_every_n_steps=100000",
)


class Clock(Callback):
    """Wall and CPU time at the end of every step."""

    def __init__(self) -> None:
        self.stamps: list[Seconds] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.stamps.append((time.perf_counter(), time.process_time()))

    def seconds(self) -> Seconds:
        """From the end of the first step to the end of the last."""
        first, last = self.stamps[0], self.stamps[-1]
        return last[0] - first[0], last[1] - first[1]


def trainer(steps: int, clock: Clock) -> Trainer:
    """The trainer of both."""
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


class Pictures(Dataset):
    """PIL images under a transform."""

    def __init__(self, images: Tensor, transform: Any) -> None:
        self.images, self.transform = [F.to_pil_image(x) for x in images], transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index])


class Theirs(LightningModule):
    """SimCLR from lightly's parts."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from torchvision.models import resnet18

        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()
        self.head = SimCLRProjectionHead(512, WIDTH, WIDTH)
        self.loss = NTXentLoss(temperature=TEMPERATURE)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Loss of two views."""
        first, second = (self.head(self.backbone(view)) for view in batch)
        loss: Tensor = self.loss(first, second)
        return loss

    def configure_optimizers(self) -> Any:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=LR)


def check_same(ours: Any, theirs: Theirs) -> None:
    """Give both the same weights; parameters and losses must then agree."""
    mine, other = list(ours.network.parameters()), list(theirs.parameters())
    if [x.shape for x in mine] != [x.shape for x in other]:
        raise SystemExit("the networks differ")
    with torch.no_grad():
        for a, b in zip(mine, other, strict=True):
            b.copy_(a)
    views = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours.eval(), theirs.eval()
    batch = {"view_1": views[0], "view_2": views[1]}
    values = ours.losses(batch)["loss"], theirs.training_step((views[0], views[1]), 0)
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-4)
    ours.train(), theirs.train()


def main() -> None:
    """Run the rounds and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, results in build/bench")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--with-peers", action="store_true", help="install peers in .bench-venv")
    args = parser.parse_args()
    if args.with_peers:
        from bench_losses import enter_peer_environment

        enter_peer_environment()
    from lightly.transforms import SimCLRTransform

    from projects.dcl.config import Config
    from projects.dcl.data import build_data
    from projects.dcl.module import DCL

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cfg = load(Config, "dcl", "smoke", [*SETTINGS, f"data.batch_size={args.batch}"])
    module, other = DCL(cfg), Theirs()
    check_same(module, other)
    moments = {"mean": list(cfg.data.mean), "std": list(cfg.data.std)}
    transform = SimCLRTransform(
        input_size=32, cj_strength=0.5, gaussian_blur=0.0, normalize=moments
    )
    pictures = Pictures(load_cifar10(None, "train", limit=2000).images, transform)
    loader = DataLoader(pictures, batch_size=args.batch, shuffle=True, drop_last=True)

    def ours() -> Seconds:
        clock = Clock()
        trainer(args.steps + 1, clock).fit(module, build_data(cfg))
        return clock.seconds()

    def theirs() -> Seconds:
        clock = Clock()
        trainer(args.steps + 1, clock).fit(other, loader)
        return clock.seconds()

    rounds = interleaved({OURS: ours, "lightly": theirs}, 1 if args.quick else args.rounds)
    rows = summary(rounds, args.batch * args.steps, "SimCLR, ResNet-18, CIFAR-10 at 32 px")
    folder = results_folder(args.quick)
    title = "Training images per second, one thread"
    write([{"batch": args.batch, **row} for row in rows], "vision_training", title, folder)
    if not args.quick:
        write_tables()


if __name__ == "__main__":
    main()
