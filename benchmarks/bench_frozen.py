#!/usr/bin/env python3
"""Training against a frozen image tower with its features computed once, against computing them.

Same towers, batches and CPU, one thread, rounds in turns; a step reads its batch, runs forward and backward and the
optimiser. What the cache costs (one pass over the images) is measured beside it, with the number of
epochs after which it has paid.

    python benchmarks/bench_frozen.py [--quick]
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
from projects.cwcl.config import Config
from projects.cwcl.module import ImageTextCWCL
from projects.cwcl.pictures import training_data

OUT = ROOT / "benchmarks" / "results" / "frozen.csv"


def prepared(cache: bool, words: list[str]) -> tuple[ImageTextCWCL, object, float]:
    """Module, training set and the seconds that building them took."""
    cfg = load(Config, "cwcl", "mini", [*words, f"model.cache={str(cache).lower()}"])
    torch.manual_seed(0)
    module = ImageTextCWCL(cfg).train()
    start = time.process_time()
    data = training_data(cfg, module)
    return module, data.train_set, time.process_time() - start


def seconds_a_step(module: ImageTextCWCL, data: object, batch: int, steps: int) -> float:
    """CPU seconds of a step."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-3)
    start = time.process_time()
    for step in range(steps):
        keys = [((step * batch + i) % len(data), 0) for i in range(batch)]  # type: ignore[arg-type]
        optimizer.zero_grad()
        module.losses(data[keys])["loss"].backward()  # type: ignore[index]
        optimizer.step()
    return (time.process_time() - start) / steps


def main() -> None:
    """Measure, print, write one row for each tower."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    rounds, steps, batch = (2, 1, 250) if quick else (5, 3, 500)
    words = ["data.num_samples=1000", "model.centred=false"]
    with_cache, cached, once = prepared(True, words)
    without, images, _ = prepared(False, words)
    times: dict[str, list[float]] = {"cached": [], "images": []}
    for _ in range(rounds):
        times["cached"].append(seconds_a_step(with_cache, cached, batch, steps))
        times["images"].append(seconds_a_step(without, images, batch, steps))
    slow, fast = (statistics.median(times[name]) for name in ("images", "cached"))
    ratio = statistics.median(a / b for a, b in zip(times["images"], times["cached"], strict=True))
    saved = (slow - fast) * len(cached) / batch  # type: ignore[arg-type]
    print(f"batch {batch}: {slow:.3f} s with the tower, {fast:.3f} s from the cache, {ratio:.1f}x")
    print(
        f"the cache took {once:.2f} s for {len(cached)} images: paid after {once / saved:.1f} epochs"
    )  # type: ignore[arg-type]
    if not quick:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(
            "cpu,torch,batch,images_s,cached_s,ratio,build_s,images\n"
            f'"{cpu_name()}",{torch.__version__},{batch},{slow:.4f},{fast:.4f},{ratio:.2f},'
            f"{once:.2f},{len(cached)}\n",  # type: ignore[arg-type]
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
