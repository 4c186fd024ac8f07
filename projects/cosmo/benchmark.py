"""A training step of COSMO against the Flamingo-type reference of the same code: parameters and time.

    python -m projects.cosmo.benchmark [--rounds 5]

The `mini`: same frozen towers, captions and batch (64). Steps alternate; CPU seconds of one thread,
median of the rounds; tokens of the pictures are computed before.
"""

import argparse
import dataclasses
import statistics
import time
from typing import Any

import torch

from benchmarks.measure import results_folder, write_table
from common.config import load
from projects.cosmo.config import Config
from projects.cosmo.stages import build_module, frames_of, source_of
from projects.cosmo.tasks import count_parameters, reference
from projects.cosmo.visual_language.patch_tokens import PatchTower

OUT = results_folder(quick=False) / "cosmo.csv"


def contenders() -> dict[str, Config]:
    """COSMO, the same without its contrastive loss, without compression, and the reference."""
    cfg = load(Config, "cosmo", "mini", [])
    half = dataclasses.replace(cfg, method=dataclasses.replace(cfg.method, contrastive_weight=0.0))
    wide = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, compression=1))
    return {
        "cosmo": cfg,
        "cosmo, lambda 0": half,
        "cosmo, compression 1": wide,
        "reference": reference(cfg),
    }


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    configs = contenders()
    tower = PatchTower(configs["cosmo"].model.vision)
    frames = frames_of(configs["cosmo"], tower, "train")
    modules: dict[str, Any] = {
        name: build_module(cfg, tower).train() for name, cfg in configs.items()
    }
    optimizers = {
        name: torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
        for name, module in modules.items()
    }
    source = source_of(configs["cosmo"], modules["cosmo"], "image_text", "train", frames)
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for step in range(args.rounds + 1):
        batch = source.batch([(i, step) for i in range(64 * step, 64 * (step + 1))])
        for name, module in modules.items():
            start = time.process_time()
            optimizers[name].zero_grad()
            module.losses(batch)["loss"].backward()
            optimizers[name].step()
            if step:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    rows = []
    for name, cfg in configs.items():
        count = count_parameters(cfg, name)
        against = statistics.median(
            a / b for a, b in zip(seconds[name], seconds["reference"], strict=True)
        )
        rows.append(
            [
                name,
                count.blocks,
                count.learnable,
                f"{count.share:.4f}",
                f"{statistics.median(seconds[name]):.4f}",
                f"{against:.2f}",
            ]
        )
    for row in rows:
        print("  ".join(f"{cell!s:>20}" for cell in row))
    names = [
        "arm",
        "cross_attention_blocks",
        "learnable_parameters",
        "share_of_all",
        "cpu_seconds_a_step",
        "time_over_reference",
    ]
    write_table(names, rows, OUT)


if __name__ == "__main__":
    main()
