#!/usr/bin/env python3
"""Training speed of our loop against open_clip's own, same model, batches and CPU, interleaved.

Both train copies of one tiny CLIP on the same tensors in memory; a step is the time between two
fetches of a batch. Rounds alternate; the ratio is the median over rounds of ours / theirs in
samples per second. Also: where our time goes, and start-up (process start to first step).

    python benchmarks/bench_training.py [--quick]
"""

import argparse
import copy
import datetime
import logging
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from measure import results_folder, write_rows
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import open_clip
from open_clip_train.train import train_one_epoch

from common.config import load
from common.data.module import ContrastiveData
from common.engine.experiment import Stage
from common.engine.optim import decay_groups
from common.engine.trainer import build_trainer
from common.engine.workspace import Workspace, cpu_name

MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"layers": 4, "width": 128, "head_width": 32, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 2},
}
WARM = 3  # steps that are not counted


class Batches:
    """The same batches again and again, noting when each is asked for."""

    def __init__(self, batch: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(batch, 3, 32, 32, generator=generator)
        self.tokens = torch.randint(1, 49000, (batch, 20), generator=generator)
        self.tokens[:, -1] = 49407
        self.steps, self.stamps = steps, []
        self.num_batches, self.num_samples = steps, steps * batch

    def __iter__(self):
        for _ in range(self.steps):
            self.stamps.append(time.perf_counter())
            yield self.images, self.tokens

    def step_seconds(self) -> float:
        """Median seconds of a step."""
        gaps = [b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False)]
        return statistics.median(gaps[WARM:])


class OurBatches(Dataset):
    """The batches as a data set of ours."""

    def __init__(self, batches: Batches, batch: int) -> None:
        self.batches, self.batch = batches, batch

    def __len__(self) -> int:
        return self.batch

    def __getitem__(self, keys):
        self.batches.stamps.append(time.perf_counter())
        ids = torch.tensor([i for i, _ in keys])
        return {"images": self.batches.images, "tokens": self.batches.tokens, "ids": ids}


def theirs(model: torch.nn.Module, batch: int, steps: int) -> float:
    """Seconds per step of open_clip's loop."""
    batches = Batches(batch, steps)
    groups = decay_groups(model.named_parameters(), 0.2)
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98))
    args = SimpleNamespace(
        device="cpu",
        precision="fp32",
        accum_freq=1,
        skip_scheduler=False,
        distill=False,
        grad_clip_norm=None,
        horovod=False,
        rank=0,
        local_rank=0,
        world_size=1,
        distributed=False,
        log_every_n_steps=10,
        wandb=False,
        batch_size=batch,
        log_local=False,
    )
    data = {"train": SimpleNamespace(dataloader=batches, set_epoch=lambda epoch: None)}
    loss = open_clip.ClipLoss()
    schedule = open_clip_schedule(optimizer)
    train_one_epoch(model, data, loss, 0, optimizer, None, schedule, None, args)
    return batches.step_seconds()


def open_clip_schedule(optimizer):
    """Their cosine schedule."""
    from open_clip_train.scheduler import cosine_lr

    return cosine_lr(optimizer, 1e-4, 10, 1000)


def ours(module, cfg, batch: int, steps: int) -> float:
    """Seconds per step of our loop."""
    batches = Batches(batch, steps)
    data = ContrastiveData(OurBatches(batches, batch), batch_size=batch, seed=0)
    cfg.trainer.max_steps = steps
    workspace = Workspace(Path(cfg.runs_dir) / f"run-{time.monotonic_ns()}")
    workspace.folder(".")
    trainer = build_trainer(cfg, Stage("train", module, data), 0, workspace, [])
    trainer.fit(module, data)
    return batches.step_seconds()


def build(batch: int, folder: str):
    """Our module and a copy of its model for them."""
    from projects.laclip import Config
    from projects.laclip.module import LaCLIP

    settings = [
        "data.source=synthetic",
        "data.image_size=32",
        "trainer.accelerator=cpu",
        "trainer.checkpoint_every_n_steps=100000",
        f"data.batch_size={batch}",
        f"runs_dir={folder}",
        "model.vision=null",
    ]
    cfg = load(Config, "laclip", "smoke", settings)
    cfg.model.open_clip = MODEL
    torch.manual_seed(0)
    module = LaCLIP(cfg)
    model = copy.deepcopy(module.encoder.model)
    model.output_dict = True
    model.logit_scale.requires_grad_(True)
    return module, model, cfg


def profile(module, cfg, batch: int) -> str:
    """Table of the operators that take most of our step."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU]) as run:
        ours(module, cfg, batch, 8)
    return run.key_averages().table(
        sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40
    )


def start_up() -> float:
    """Seconds from process start to the end of the first step of the smoke config."""
    program = (
        "import sys, time, psutil, tempfile;"
        "from common.engine import callbacks, run;"
        "old = callbacks.LogTerms.on_train_batch_end\n"
        "def stop(self, trainer, *rest):\n"
        "    print(time.time() - psutil.Process().create_time(), flush=True)\n"
        "    raise SystemExit(0)\n"
        "callbacks.LogTerms.on_train_batch_end = stop\n"
        "with tempfile.TemporaryDirectory() as f:\n"
        "    run.train('laclip', 'smoke', [f'runs_dir={f}', 'tracking.wandb=disabled'])\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    return float(out.stdout.strip().splitlines()[-1])


def main() -> None:
    """Run the rounds and write the row."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few of both, to build/bench")
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    steps, rounds = (15, 3) if args.quick else (40, 7)
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        module, model, cfg = build(args.batch, folder)
        pairs = []
        for _ in range(rounds):
            t = theirs(model, args.batch, steps)
            o = ours(module, cfg, args.batch, steps)
            pairs.append((o, t))
            print(
                f"ours {args.batch / o:7.1f}  open_clip {args.batch / t:7.1f} samples/s  ratio"
                f" {t / o:.3f}"
            )
        table = profile(module, cfg, args.batch)
    ratio = statistics.median(t / o for o, t in pairs)
    seconds = statistics.median(start_up() for _ in range(1 if args.quick else 3))
    print(table)
    print(
        f"ratio ours / open_clip: {ratio:.3f} (median of {rounds} rounds); start-up {seconds:.1f} s"
    )
    row = {
        "date": datetime.date.today().isoformat(),
        "machine": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "batch": args.batch,
        "ours_samples_per_second": round(statistics.median(args.batch / o for o, _ in pairs), 1),
        "open_clip_samples_per_second": round(
            statistics.median(args.batch / t for _, t in pairs), 1
        ),
        "ratio": round(ratio, 3),
        "start_up_seconds": round(seconds, 1),
    }
    write_rows([row], results_folder(args.quick) / "training.csv")


if __name__ == "__main__":
    main()
