#!/usr/bin/env python3
"""From which size the fused losses are faster than plain torch on the device at hand.

    make bench KERNEL=crossover                    # writes build/crossover_<device>.json
    CONTRASTIVE_CROSSOVER=build/crossover_cuda.json make train PROJECT=...

Without the variable the table of common/kernels/crossover.py is used. Method: forward and backward
of one loss of each kind, plain and fused in turn, median over the rounds of the ratio; the limit is
the largest number of pairs up to which the plain form took at most as long at every size.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.multi_positive import SupConLoss
from common.losses.two_view import NTXentLoss

LOSSES = {
    "one-way": InfoNCELoss,
    "symmetric": ClipLoss,
    "self": NTXentLoss,
    "labels": SupConLoss,
    "softplus": SigLipLoss,
}
DIMS = (128, 512)  # what the two columns of the table stand for


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--log2-pairs", type=int, nargs=2, default=[16, 24], metavar="N")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def step(kind: str, backend: str, pairs: int, dim: int, device: str) -> Callable[[], None]:
    """Forward and backward of a loss of about so many pairs."""
    num = round(pairs**0.5)
    num = num // 2 if kind == "self" else num
    x, y = (torch.randn(num, dim, device=device, requires_grad=True) for _ in range(2))
    loss = LOSSES[kind](backend=backend)
    second: Tensor = torch.arange(num, device=device) // 8 if kind == "labels" else y

    def run() -> None:
        x.grad = y.grad = None
        loss(x, second, 14.3).loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def seconds(run: Callable[[], None], calls: int, device: str) -> float:
    """Seconds of a call: of the process on a CPU, which others share, by the clock elsewhere."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begin = clock()
    for _ in range(calls):
        run()
    return (clock() - begin) / calls


def ratio(kind: str, pairs: int, dim: int, args: argparse.Namespace) -> float:
    """Median over rounds of the fused form's time over the plain form's."""
    fused = "triton" if args.device == "cuda" else "blocked"
    runs = [step(kind, backend, pairs, dim, args.device) for backend in ("dense", fused)]
    for run in runs:
        run()
    calls = max(1, int(0.02 / max(seconds(runs[0], 1, args.device), 1e-6)))
    found = []
    for turn in range(args.rounds):
        both = {i: seconds(runs[i], calls, args.device) for i in ((0, 1) if turn % 2 else (1, 0))}
        found.append(both[1] / both[0])
    return statistics.median(found)


def main() -> None:
    """Measure, print, write."""
    args = parse()
    torch.set_num_threads(args.threads)
    table: dict[str, list[int]] = {}
    ratios: dict[str, float] = {}
    low, high = args.log2_pairs
    for kind in args.kinds:
        for dim in DIMS:
            limit = 0
            for power in range(low, high + 1):
                found = ratio(kind, 2**power, dim, args)
                ratios[f"{kind}/{dim}/2^{power}"] = round(found, 3)
                print(f"{kind:10} D={dim} 2^{power} pairs: fused / plain {found:.2f}", flush=True)
                if found < 1:
                    break
                limit = 2**power
            table.setdefault(kind, []).append(limit)
    out = args.out or ROOT / "build" / f"crossover_{args.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [[args.device, kind, *limits] for kind, limits in table.items()]
    out.write_text(
        json.dumps({"torch": torch.__version__, "pairs": rows, "ratios": ratios}, indent=1) + "\n"
    )
    print(f"{out}: {table}")


if __name__ == "__main__":
    main()
