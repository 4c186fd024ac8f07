#!/usr/bin/env python3
"""Training on images with vision features computed once, against computing them in every step.

The same module, batches and CPU, one thread, rounds in turns; a step reads its batch, runs forward and backward
and the optimiser. What the cache costs (one pass over the pictures) is measured beside it.

    python benchmarks/bench_close.py [--quick]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.config import load
from common.engine.workspace import cpu_name
from projects.close import bundled
from projects.close.config import Config
from projects.close.module import CLOSE
from projects.close.stages import stages

OUT = ROOT / "benchmarks" / "results" / "close.csv"


def prepared(cache: bool) -> tuple[CLOSE, object, float]:
    """Module, training set and the CPU seconds that building them took."""
    cfg = load(
        Config,
        "close",
        "mini",
        ["data.inputs=image", "data.photos=1000", f"model.cache={cache}".lower()],
    )
    torch.manual_seed(0)
    start = time.process_time()
    stage = next(stages(cfg))
    return stage.module.train(), stage.data.train_set, time.process_time() - start  # type: ignore[return-value]


def seconds_a_step(module: CLOSE, rows: object, batch: int, steps: int) -> float:
    """CPU seconds of a step."""
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    start = time.process_time()
    for step in range(steps):
        keys = [((step * batch + i) % len(rows), 0) for i in range(batch)]  # type: ignore[arg-type]
        optimizer.zero_grad()
        module.losses(rows[keys])["loss"].backward()  # type: ignore[index]
        optimizer.step()
    return (time.process_time() - start) / steps


def main() -> None:
    """Measure, print, write one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    photographs = bundled.drawing_examples  # photographs alone, so that both sets are small
    bundled.drawing_examples = lambda *_: []  # type: ignore[assignment]
    rounds, steps, batch = (2, 1, 64) if quick else (5, 3, 64)
    with_cache, cached, once = prepared(True)
    without, images, empty = prepared(False)
    bundled.drawing_examples = photographs
    times: dict[str, list[float]] = {"cached": [], "images": []}
    for _ in range(rounds):
        times["cached"].append(seconds_a_step(with_cache, cached, batch, steps))
        times["images"].append(seconds_a_step(without, images, batch, steps))
    slow, fast = (statistics.median(times[name]) for name in ("images", "cached"))
    ratio = statistics.median(a / b for a, b in zip(times["images"], times["cached"], strict=True))
    print(f"batch {batch}: {slow:.3f} s with the tower, {fast:.3f} s from the cache, {ratio:.1f}x")
    print(f"the cache took {once - empty:.2f} s for {len(cached)} pictures")  # type: ignore[arg-type]
    if not quick:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(
            "cpu,torch,batch,images_s,cached_s,ratio,build_s,images\n"
            f'"{cpu_name()}",{torch.__version__},{batch},{slow:.4f},{fast:.4f},{ratio:.2f},'
            f"{once - empty:.2f},{len(cached)}\n",  # type: ignore[arg-type]
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
