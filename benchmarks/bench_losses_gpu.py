#!/usr/bin/env python3
"""Symmetric contrastive loss on a GPU: correctness, peak memory and time of forward + backward.

Ours (Triton; recomputing, and with all exponentials kept) against dense torch (one similarity matrix),
the same under torch.compile, open_clip's ClipLoss, and the floor: four N x N x D products measured in the same round. Rounds alternate between
the candidates; times are medians of CUDA-event timings. Each row of the results names the card, the
driver's CUDA and the versions. **No row exists until somebody runs this on a GPU.**

    python benchmarks/bench_losses_gpu.py [--sizes 8192 32768] [--dims 512 768 1024] [--dtype bf16]
"""

import argparse
import csv
import datetime
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.kernels.pair import info_nce

OUT = ROOT / "benchmarks" / "results" / "losses_gpu.csv"
DEVICE = "cuda"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIELDS = [
    "date", "card", "torch", "cuda", "triton", "dtype", "n", "dim", "candidate", "ms", "over_floor",
    "peak_mib", "loss_error", "grad_error",
]  # fmt: skip
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The fused loss of this repository."""
    return info_nce(image, text, scale, backend="triton")


def kept(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The same with a budget for all exponentials."""
    budget = 4 * len(image) * len(text)
    return info_nce(image, text, scale, backend="triton", memory_budget=budget)


def dense(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """One similarity matrix, fp32 log-sum-exp in both directions."""
    logits = (image @ text.T).float() * scale
    target = torch.diagonal(logits)
    return 0.5 * (logits.logsumexp(0) + logits.logsumexp(1)).mean() - target.mean()


def candidates() -> dict[str, Loss]:
    """What is compared, by name."""
    losses: dict[str, Loss] = {"ours": ours, "ours, tiles kept": kept, "dense": dense}
    losses["compiled"] = torch.compile(dense)
    try:
        from open_clip.loss import ClipLoss
    except ImportError:
        sys.stderr.write("open_clip is not installed: left out\n")
    else:
        losses["open_clip"] = ClipLoss()
    return losses


def inputs(n: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    """Unit vectors of matching pairs and a scale, all requiring gradients."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    image, noise = (torch.randn(n, dim, device=DEVICE, generator=generator) for _ in range(2))
    image = F.normalize(image, dim=1)
    spread = 6.8 / dim**0.5  # cosine 0.145 of a pair: at scale 50 the loss is about 4 for N = 8192
    text = F.normalize(image + spread * noise, dim=1)
    leaves = [x.to(dtype).requires_grad_() for x in (image, text)]
    return [*leaves, torch.tensor(50.0, device=DEVICE, requires_grad=True)]


def step(loss: Loss, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """Value and gradients."""
    value = loss(*leaves)
    return (value.detach(), *torch.autograd.grad(value, leaves))


def floor(image: Tensor, text: Tensor) -> None:
    """Four products of 2*N*N*D flop with the shapes of the loss (two into an N x N matrix)."""
    with torch.no_grad():
        for _ in range(2):
            logits = image @ text.T
        logits @ text
        logits.T @ image


def milliseconds(run: Callable[[], object]) -> float:
    """Duration on the device."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop)


def peak_mib(run: Callable[[], object]) -> float:
    """Peak device memory beyond what was allocated before, in MiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def errors(loss: Loss, n: int, dim: int, dtype: torch.dtype) -> tuple[float, float]:
    """Relative error of value and image gradient against dense float64 on at most 4096 pairs."""
    leaves = inputs(min(n, 4096), dim, dtype)
    exact = step(dense_double, [x.detach().double().requires_grad_() for x in leaves])
    got = step(loss, leaves)
    value = float((got[0].double() - exact[0]).abs() / exact[0].abs())
    return value, float((got[1].double() - exact[1]).norm() / exact[1].norm())


def dense_double(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The reference, without casts."""
    logits = image @ text.T * scale
    return 0.5 * (logits.logsumexp(0) + logits.logsumexp(1)).mean() - logits.diagonal().mean()


def measure(n: int, dim: int, name: str, rounds: int) -> list[dict[str, object]]:
    """One row per candidate for N pairs of dimension D, and one for the floor."""
    torch.compiler.reset()  # every shape is compiled as the first one
    dtype, losses = DTYPES[name], candidates()
    leaves = inputs(n, dim, dtype)
    runs: dict[str, Callable[[], object]] = {"floor": lambda: floor(*leaves[:2])}
    rows: list[dict[str, object]] = []
    for label, loss in losses.items():
        run = lambda loss=loss: step(loss, leaves)  # noqa: E731
        try:
            run()  # compiles
            rows.append({"candidate": label, "peak_mib": round(peak_mib(run), 1)})
            runs[label] = run
        except torch.OutOfMemoryError:
            rows.append({"candidate": label, "peak_mib": "out of memory"})
            torch.cuda.empty_cache()
    floor(*leaves[:2])
    times: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(rounds):
        for label, run in runs.items():
            times[label].append(milliseconds(run))
    base = statistics.median(times["floor"])
    for row in rows:
        label = str(row["candidate"])
        if label in runs:
            ms = statistics.median(times[label])
            value, grad = errors(losses[label], n, dim, dtype)
            row |= {"ms": round(ms, 3), "over_floor": round(ms / base, 3)}
            row |= {"loss_error": f"{value:.1e}", "grad_error": f"{grad:.1e}"}
    return [{"candidate": "floor", "ms": round(base, 3), "over_floor": 1.0}, *rows]


def environment() -> dict[str, object]:
    """Card and versions."""
    import triton

    return {
        "date": datetime.date.today().isoformat(), "card": torch.cuda.get_device_name(),
        "torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton.__version__,
    }  # fmt: skip


def main() -> int:
    """Run the benchmark and append to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--dims", type=int, nargs="+", default=[512, 768, 1024])
    parser.add_argument("--dtype", choices=list(DTYPES), default="bf16")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("bench_losses_gpu needs a CUDA device; there is none here\n")
        return 2
    env = environment()
    print(f"card: {env['card']}, torch {env['torch']}, CUDA {env['cuda']}, triton {env['triton']}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    new = not OUT.exists()
    with OUT.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, FIELDS, restval="")
        if new:
            writer.writeheader()
        for n in args.sizes:
            for dim in args.dims:
                for row in measure(n, dim, args.dtype, args.rounds):
                    row |= env | {"dtype": args.dtype, "n": n, "dim": dim}
                    writer.writerow(row)
                    print({f: row.get(f, "") for f in FIELDS[5:]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
