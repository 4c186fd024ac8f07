#!/usr/bin/env python3
"""Tune the tiles of the Triton kernels on the card available and write the table.

    make bench KERNEL=tiles          # or: python benchmarks/bench_tiles.py [--num 16384]
    CONTRASTIVE_TILES=build/tiles_sm90.json make train PROJECT=...

Without the variable the fixed table of common/kernels/gpu/tile_table.py is used. Results do not
change but for the order of summation. **The tuner has never run on a GPU**; its search is tested in
Triton's interpreter.
"""

import argparse
import datetime
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tile_search import FAMILIES, VARIANTS, tune
from common.kernels.gpu.tile_table import save_tiles

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def main() -> int:
    """Tune, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=16384, help="rows and columns")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=["bf16", "fp32"])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--out", type=Path, help="default build/tiles_sm<capability>.json")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("bench_tiles needs a CUDA device; there is none here\n")
        return 2
    import triton

    tiles, times = {}, {}
    for name in args.dtypes:
        found = tune(
            args.num, args.dim, DTYPES[name], families=args.families, variants=args.variants
        )
        for key, (tile, ms, default_ms) in found.items():
            tiles[key] = tile
            times["/".join(map(str, key))] = {"ms": ms, "default_ms": default_ms}
            print(f"{key}: {tuple(tile)} {ms:.3f} ms, fixed table {default_ms:.3f} ms")
    major, minor = torch.cuda.get_device_capability()
    out = args.out or ROOT / "build" / f"tiles_sm{major}{minor}.json"
    about = {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "num": args.num,
        "dim": args.dim,
        "times": times,
    }
    save_tiles(tiles, out, **about)
    print(f"written: {out}; use it with CONTRASTIVE_TILES={out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
