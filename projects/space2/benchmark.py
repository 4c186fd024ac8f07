"""Soft-weighted contrast of ten views: trees in tiles and the pair kernel, against dense matrices of pairs.

    python -m projects.space2.benchmark [--quick] [--rounds 3]

The contender writes the released computation down plainly: a (2B, 2B) matrix of logits, one of
weights that a dictionary of scores fills, one of log-probabilities, for every view. Both get the
same vectors and sets and make loss and gradient. CPU seconds of one thread, median of the rounds;
memory is the largest growth of the resident set in a process of its own.
"""

import argparse
import datetime
import platform
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import growth, results_folder, write_rows
from common.losses.weighted.overlap import SetOverlap
from projects.space2.objective import multi_view_contrast

OUT = results_folder(quick=False) / "space2.csv"
VIEWS, DIM, TAU, ELEMENTS = 10, 64, 0.07, 4  # sub-spaces, their size, temperature, of a set


def inputs(batch: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Vectors (2B, K, d) and the sets of K views."""
    g = torch.Generator().manual_seed(0)
    vectors = torch.randn(2 * batch, VIEWS, DIM, generator=g)
    sets = []
    for _ in range(VIEWS):
        rows = [torch.randperm(200, generator=g)[:ELEMENTS] for _ in range(batch)]
        sets.append((torch.cat(rows), torch.full((batch,), ELEMENTS)))
    return vectors, sets


def ours(vectors: Tensor, sets: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Tiles of weights, fused sums over pairs."""
    return multi_view_contrast(vectors, sets, TAU)["loss"]


def dense(vectors: Tensor, sets: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Matrices of all pairs, the weights among them."""
    total = vectors.new_zeros(())
    for k, (ids, counts) in enumerate(sets):
        z = F.normalize(vectors[:, k], dim=-1)
        count = len(z)
        weights = SetOverlap(ids, counts).rows(0, len(counts), z).repeat(2, 2)
        others = ~torch.eye(count, dtype=torch.bool)
        weights = weights * others
        logits = z @ z.T / TAU
        logits = logits - logits.max(1, keepdim=True).values.detach()
        log_prob = logits - (logits.exp() * others).sum(1, keepdim=True).log()
        total = total - ((weights * log_prob).sum(1) / weights.sum(1)).mean()
    return total / len(sets)


def step(name: str, batch: int) -> tuple[float, float]:
    """CPU seconds of loss and gradient, and the loss."""
    vectors, sets = inputs(batch)
    vectors.requires_grad_()
    begun = time.process_time()
    loss = {"ours": ours, "dense": dense}[name](vectors, sets)
    loss.backward()  # type: ignore[no-untyped-call]
    return time.process_time() - begun, float(loss.detach())


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small batches, no file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    batches = (64, 128) if args.quick else (128, 512, 1024)
    for name in ("ours", "dense"):
        step(name, 64)  # what is loaded at first use
    # before the timed steps, whose freed memory this process would keep
    memory = {
        (name, batch): growth(lambda name=name, batch=batch: lambda: step(name, batch))
        for batch in batches
        for name in ("ours", "dense")
    }
    for batch in batches:
        times: dict[str, list[float]] = {"ours": [], "dense": []}
        losses = {}
        for _ in range(args.rounds + 1):
            for name, own in times.items():
                seconds, losses[name] = step(name, batch)
                own.append(seconds)
        assert abs(losses["ours"] - losses["dense"]) < 1e-4 * losses["dense"], losses
        for name, own in times.items():
            row = {
                "date": datetime.date.today().isoformat(),
                "machine": platform.machine(),
                "threads": 1,
                "torch": torch.__version__,
                "batch": batch,
                "views": VIEWS,
                "name": name,
                "rounds": args.rounds,
                "cpu_ms": round(1000 * statistics.median(own[1:]), 1),
                "memory_mib": round(memory[name, batch], 1),
            }
            rows.append(row)
            print(row, flush=True)
    if not args.quick:
        write_rows(rows, OUT)


if __name__ == "__main__":
    main()
