#!/usr/bin/env python3
"""Training with the features of a frozen image tower computed once, against computing them in every step.

CWCL (a text tower learns against images) or CLOSE (a captioner learns from images): same module,
batches and CPU, one thread, rounds in turns; a step reads its batch, runs forward and backward and
the optimiser. What the cache costs (one pass over the images) is measured alongside it, with the
number of epochs after which it has paid.

    python benchmarks/bench_frozen.py [--project close] [--quick]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from measure import write_rows

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.config import load
from common.engine.workspace import cpu_name

RESULTS = ROOT / "benchmarks" / "results"


def cwcl(cache: bool) -> tuple[Any, Any, float]:
    """Module, training set and the CPU seconds that reading the images took."""
    from projects.cwcl.config import Config
    from projects.cwcl.module import ImageTextCWCL
    from projects.cwcl.pictures import training_data

    words = ["data.num_samples=1000", "model.centred=false", f"model.cache={str(cache).lower()}"]
    cfg = load(Config, "cwcl", "mini", words)
    torch.manual_seed(0)
    module = ImageTextCWCL(cfg).train()
    start = time.process_time()
    data = training_data(cfg, module)
    return module, data.train_set, time.process_time() - start


def close(cache: bool) -> tuple[Any, Any, float]:
    """As `cwcl`, and building the captioner counts too: both forms build the same one."""
    from projects.close.config import Config
    from projects.close.stages import stages

    words = ["data.inputs=image", "data.photos=1000", f"model.cache={str(cache).lower()}"]
    cfg = load(Config, "close", "mini", words)
    torch.manual_seed(0)
    start = time.process_time()
    stage = next(stages(cfg))
    return stage.module.train(), stage.data.train_set, time.process_time() - start


BATCH = {cwcl: 500, close: 64}


def seconds_a_step(module: Any, data: Any, batch: int, steps: int) -> float:
    """CPU seconds of a step."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-3)
    start = time.process_time()
    for step in range(steps):
        keys = [((step * batch + i) % len(data), 0) for i in range(batch)]
        optimizer.zero_grad()
        module.losses(data[keys])["loss"].backward()
        optimizer.step()
    return (time.process_time() - start) / steps


def main() -> None:
    """Measure, print, write one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing is written")
    parser.add_argument("--project", choices=("cwcl", "close"), default="cwcl")
    args = parser.parse_args()
    quick, prepared = args.quick, {"cwcl": cwcl, "close": close}[args.project]
    torch.set_num_threads(1)
    rounds, steps, batch = (2, 1, BATCH[prepared] // 2) if quick else (5, 3, BATCH[prepared])
    with_cache, cached, once = prepared(True)
    without, images, empty = prepared(False)
    once -= empty
    times: dict[str, list[float]] = {"cached": [], "images": []}
    for _ in range(rounds):
        times["cached"].append(seconds_a_step(with_cache, cached, batch, steps))
        times["images"].append(seconds_a_step(without, images, batch, steps))
    slow, fast = (statistics.median(times[name]) for name in ("images", "cached"))
    ratio = statistics.median(a / b for a, b in zip(times["images"], times["cached"], strict=True))
    saved = (slow - fast) * len(cached) / batch
    print(f"batch {batch}: {slow:.3f} s with the tower, {fast:.3f} s from the cache, {ratio:.1f}x")
    print(
        f"the cache took {once:.2f} s for {len(cached)} images: paid after {once / saved:.1f}"
        " epochs"
    )
    if not quick:
        row = {
            "cpu": cpu_name(),
            "torch": torch.__version__,
            "batch": batch,
            "images_s": f"{slow:.4f}",
            "cached_s": f"{fast:.4f}",
            "ratio": f"{ratio:.2f}",
            "build_s": f"{once:.2f}",
            "images": len(cached),
        }
        write_rows([row], RESULTS / f"frozen_{args.project}.csv")


if __name__ == "__main__":
    main()
