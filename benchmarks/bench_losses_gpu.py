#!/usr/bin/env python3
"""Contrastive losses on a GPU: correctness, peak memory and time of forward + backward.

Four cases (symmetric, row-only, NT-Xent, SigLIP), each with the fused kernels of this repository,
as an op and as the module that training uses, against dense torch (one similarity matrix), the same
under torch.compile, a dense form that recomputes one block of rows at a time, and the libraries at
hand (open_clip, Liger-Kernel).
Precisions: bf16, fp16, fp32 (exact), tf32, and half: float32 embeddings that our loss may round
(`precision="half"`; the others get what autocast would hand them, bfloat16). The floor is what the
case needs at least: four or three N x N x D products in the same round. Rounds alternate between
the candidates; times are medians of CUDA-event timings. A row is written as soon as it is measured,
with the card and the versions; what a results file has already is left out, so a run that was cut
off goes on. A row of ours whose errors are beyond those of its precision is named and not written,
and the exit code is 1. **No row exists until somebody runs this on a GPU.**

    python benchmarks/bench_losses_gpu.py [--cases symmetric] [--dtypes bf16 tf32]
        [--sizes 8192 32768] [--dims 512]
"""

import argparse
import csv
import datetime
import importlib
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.kernels.pair import info_nce
from common.losses.image_text import ClipLoss, SigLipLoss
from common.losses.info_nce import InfoNCELoss
from common.losses.output import LossOutput
from common.losses.two_view import NTXentLoss

OUT = ROOT / "benchmarks" / "results" / "losses_gpu.csv"
DEVICE = "cuda"
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "half": torch.float32,
}
BOUNDS = {  # largest relative error of value and gradient of ours
    "bf16": (1e-3, 1e-2),
    "fp16": (1e-3, 1e-2),
    "fp32": (5e-5, 2e-4),
    "tf32": (1e-3, 1e-2),
    "half": (1e-3, 1e-2),
}
KEY = ("card", "torch", "case", "dtype", "n", "dim", "candidate")
FIELDS = [
    "date",
    "card",
    "torch",
    "cuda",
    "triton",
    "case",
    "dtype",
    "n",
    "dim",
    "candidate",
    "ms",
    "over_floor",
    "peak_mib",
    "loss_error",
    "grad_error",
]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(image: Tensor, text: Tensor, scale: Tensor, precision: str = "exact") -> Tensor:
    """The fused loss of this repository."""
    return info_nce(image, text, scale, backend="triton", precision=precision)


def by_addresses(image: Tensor, text: Tensor, scale: Tensor, precision: str = "exact") -> Tensor:
    """The same without the card's copy engine, where it has one."""
    with patch.dict(os.environ, {"CONTRASTIVE_TMA": "0"}):
        return ours(image, text, scale, precision)


def kept(image: Tensor, text: Tensor, scale: Tensor, precision: str = "exact") -> Tensor:
    """The same with a budget for all exponentials."""
    budget = 4 * len(image) * len(text)
    return info_nce(image, text, scale, backend="triton", memory_budget=budget, precision=precision)


def dense(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """One similarity matrix, log-sum-exp in both directions, in float32 at least."""
    logits = _wide(image @ text.T) * scale
    return 0.5 * (logits.logsumexp(0) + logits.logsumexp(1)).mean() - logits.diagonal().mean()


def dense_rows(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    """Row-only InfoNCE from one matrix."""
    logits = _wide(query @ key.T) * scale
    return (logits.logsumexp(1) - logits.diagonal()).mean()


def dense_two_views(one: Tensor, two: Tensor, scale: Tensor) -> Tensor:
    """NT-Xent from the matrix of all 2 N views."""
    views = torch.cat([one, two])
    logits = _wide(views @ views.T) * scale
    logits = logits.masked_fill(
        torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf
    )
    positive = (_wide(one) * _wide(two)).sum(1) * scale
    return logits.logsumexp(1).mean() - positive.mean()


def dense_sigmoid(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """SigLIP with bias -10 from one matrix."""
    logits = _wide(image @ text.T) * scale - 10.0
    signs = 2 * torch.eye(len(image), device=image.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum(1).mean()


def in_blocks(query: Tensor, key: Tensor, scale: Tensor, rows: int = 1024) -> Tensor:
    """Row-only InfoNCE, one block of rows at a time, whose logits are computed again for the gradient."""

    def block(part: Tensor, keys: Tensor, scale: Tensor, start: int) -> Tensor:
        logits = _wide(part @ keys.T) * scale
        return (logits.logsumexp(1) - logits.diagonal(start)).sum()

    sums = [
        checkpoint(block, query[i : i + rows], key, scale, i, use_reentrant=False)
        for i in range(0, len(query), rows)
    ]
    return torch.stack(sums).sum() / len(query)


def both_in_blocks(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Both directions of `in_blocks`."""
    return 0.5 * (in_blocks(image, text, scale) + in_blocks(text, image, scale))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Case:
    """A loss: its exact dense form, how many N x N x D products it needs at least, its candidates at a precision."""

    exact: Loss
    products: int
    losses: Callable[[str], dict[str, Loss]]


def _of(module: Callable[..., LossOutput]) -> Loss:
    return lambda q, k, scale: module(q, k, scale).loss


def _symmetric(precision: str) -> dict[str, Loss]:
    allowed = precision if precision in ("tf32", "half") else "exact"  # as the module finds it
    losses: dict[str, Loss] = {
        "ours": partial(ours, precision=allowed),
        "ours, by addresses": partial(by_addresses, precision=allowed),
        "ours, tiles kept": partial(kept, precision=allowed),
        "ours, module": _of(ClipLoss(normalize=False)),
    }
    losses |= {"dense": dense, "compiled": torch.compile(dense), "dense, in blocks": both_in_blocks}
    if (theirs := _library("open_clip.loss", "ClipLoss")) is not None:
        losses["open_clip"] = theirs()
    return losses


def _row_only(precision: str) -> dict[str, Loss]:
    losses: dict[str, Loss] = {"ours, module": _of(InfoNCELoss(normalize=False))}
    losses |= {
        "dense": dense_rows,
        "compiled": torch.compile(dense_rows),
        "dense, in blocks": in_blocks,
    }
    if (
        fused := _library("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss")
    ) is not None:
        losses["liger"] = lambda q, k, scale: fused()(
            k, q * scale.to(q.dtype), torch.arange(len(q), device=q.device)
        )
    return losses


def _two_views(precision: str) -> dict[str, Loss]:
    losses: dict[str, Loss] = {"ours, module": _of(NTXentLoss(normalize=False))}
    return losses | {"dense": dense_two_views, "compiled": torch.compile(dense_two_views)}


def _sigmoid(precision: str) -> dict[str, Loss]:
    module = SigLipLoss(normalize=False)
    losses: dict[str, Loss] = {"ours, module": lambda q, k, scale: module(q, k, scale, -10.0).loss}
    losses |= {"dense": dense_sigmoid, "compiled": torch.compile(dense_sigmoid)}
    if (theirs := _library("open_clip.loss", "SigLipLoss")) is not None:
        losses["open_clip"] = lambda q, k, scale: theirs()(q, k, scale, -10.0)
    return losses


CASES = {
    "symmetric": Case(dense, 4, _symmetric),
    "row-only": Case(dense_rows, 3, _row_only),
    "nt-xent": Case(dense_two_views, 8, _two_views),
    "siglip": Case(dense_sigmoid, 3, _sigmoid),
}


def _library(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        sys.stderr.write(f"{module} is not installed: left out\n")
        return None


def inputs(n: int, dim: int, dtype: torch.dtype) -> list[Tensor]:
    """Unit vectors of matching pairs and a scale, all requiring gradients."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    image, noise = (torch.randn(n, dim, device=DEVICE, generator=generator) for _ in range(2))
    image = F.normalize(image, dim=1)
    spread = 6.8 / dim**0.5  # cosine 0.145 of a pair: at scale 50 the loss is about 4 for N = 8192
    text = F.normalize(image + spread * noise, dim=1)
    leaves = [x.to(dtype).requires_grad_() for x in (image, text)]
    return [*leaves, torch.tensor(50.0, device=DEVICE, requires_grad=True)]


def step(loss: Loss, leaves: list[Tensor], mixed: bool = False) -> tuple[Tensor, ...]:
    """Value and gradients; `mixed` calls the loss as a step in mixed precision does."""
    with torch.autocast(DEVICE, torch.bfloat16, enabled=mixed):
        value = loss(*leaves)
    return (value.detach(), *torch.autograd.grad(value, leaves))


def floor(image: Tensor, text: Tensor, products: int) -> None:
    """Products of 2 N N D flop with the shapes of the loss: into an N x N matrix, and out of it."""
    with torch.no_grad():
        logits = image @ text.T
        for i in range(products - 1):
            _ = image @ text.T if i % 2 else logits @ text


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


def errors(
    case: Case, loss: Loss, n: int, dim: int, dtype: torch.dtype, mixed: bool = False
) -> tuple[float, float]:
    """Relative error of value and gradient against dense float64 on at most 4096 pairs."""
    leaves = inputs(min(n, 4096), dim, dtype)
    exact = step(case.exact, [x.detach().double().requires_grad_() for x in leaves])
    got = step(loss, leaves, mixed)
    value = float((got[0].double() - exact[0]).abs() / exact[0].abs())
    return value, float((got[1].double() - exact[1]).norm() / exact[1].norm())


def measure(
    name: str, n: int, dim: int, precision: str, rounds: int, known: set[str]
) -> Iterator[dict[str, object]]:
    """One row per candidate for N pairs of dimension D, and one for the floor.

    `known` ones are left out.
    """
    torch.compiler.reset()  # every shape is compiled as the first one
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    case, dtype = CASES[name], DTYPES[precision]
    mixed = precision == "half"
    losses = {label: loss for label, loss in case.losses(precision).items() if label not in known}
    if not losses:
        return
    leaves, base = inputs(n, dim, dtype), None
    bottom = lambda: floor(*leaves[:2], case.products)  # noqa: E731
    bottom()
    for label, loss in losses.items():
        run = lambda loss=loss: step(loss, leaves, mixed)  # noqa: E731
        try:
            run()  # compiles
            row: dict[str, object] = {"candidate": label, "peak_mib": round(peak_mib(run), 1)}
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield {"candidate": label, "peak_mib": "out of memory"}
            continue
        times: list[tuple[float, float]] = []
        for _ in range(rounds):
            times.append((milliseconds(bottom), milliseconds(run)))
        base, ms = (statistics.median(t) for t in zip(*times, strict=True))
        value, grad = errors(case, loss, n, dim, dtype, mixed)
        row |= {
            "ms": round(ms, 3),
            "over_floor": round(statistics.median(b / a for a, b in times), 3),
        }
        yield row | {"loss_error": f"{value:.1e}", "grad_error": f"{grad:.1e}"}
    if base is not None and "floor" not in known:
        yield {"candidate": "floor", "ms": round(base, 3), "over_floor": 1.0}


def wrong(row: dict[str, object], precision: str) -> bool:
    """Whether a row of ours has an error that its precision does not explain.

    An error that is not a number is one.
    """
    if not str(row["candidate"]).startswith("ours") or "loss_error" not in row:
        return False
    found = float(str(row["loss_error"])), float(str(row["grad_error"]))
    return not all(e <= bound for e, bound in zip(found, BOUNDS[precision], strict=True))


def rows_at_hand(path: Path) -> list[dict[str, str]]:
    """Rows of a results file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def environment() -> dict[str, object]:
    """Card and versions."""
    import triton

    return {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def main() -> int:
    """Run the benchmark and append to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--dims", type=int, nargs="+", default=[512])
    parser.add_argument(
        "--dtypes", nargs="+", choices=list(DTYPES), default=["bf16", "half", "tf32", "fp32"]
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stderr.write("bench_losses_gpu needs a CUDA device; there is none here\n")
        return 2
    env = environment()
    print(f"card: {env['card']}, torch {env['torch']}, CUDA {env['cuda']}, triton {env['triton']}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    here = rows_at_hand(args.out)
    beyond: list[dict[str, object]] = []
    with args.out.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, FIELDS, restval="")
        if not handle.tell():  # a file of no rows may have it
            writer.writeheader()
        for case, dtype, n, dim in itertools.product(
            args.cases, args.dtypes, args.sizes, args.dims
        ):
            about = env | {"case": case, "dtype": dtype, "n": n, "dim": dim}
            same = [str(about[k]) for k in KEY[:-1]]
            known = {r["candidate"] for r in here if [r[k] for k in KEY[:-1]] == same}
            for row in measure(case, n, dim, dtype, args.rounds, known):
                shown = {f: (row | about).get(f, "") for f in FIELDS[5:]}
                print(shown, flush=True)
                if wrong(row, dtype):
                    beyond.append(shown)
                    continue
                writer.writerow(row | about)
                handle.flush()
    for shown in beyond:
        bounds = BOUNDS[str(shown["dtype"])]
        sys.stderr.write(f"wrong, errors of {shown['dtype']} stay below {bounds}: {shown}\n")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
