#!/usr/bin/env python3
"""Sampled margin softmax with row-sparse Adam against the full matrix with dense AdamW, in one run.

    make bench KERNEL=class_matrix               # or: python benchmarks/bench_class_matrix.py
    [--dim 64]

One step: loss of a batch, backward, update. The full matrix writes all logits, a dense gradient and
all moments; the sampled one touches the rows of the step. CPU seconds, median of the rounds; bytes
are what stays (weights, moments) and what a step adds at its peak.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import write_table
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.losses.auxiliary.prototypes import sampled_prototype_softmax
from projects.mofi.class_matrix import ClassMatrix, sample_classes

OUT = ROOT / "benchmarks" / "results" / "class_matrix.csv"
SCALE, MARGIN, RATE = 32.0, 0.15, 1e-3
MIB = 2**20


class Sampled:
    """Ours."""

    def __init__(self, classes: int, dim: int, sampled: int) -> None:
        self.matrix, self.sampled, self.count = ClassMatrix(classes, dim), sampled, 0

    def step(self, image: Tensor, labels: Tensor) -> None:
        """Loss, backward, update."""
        self.count += 1
        rng = np.random.default_rng(self.count)
        ids, _ = sample_classes(labels, self.matrix.num_classes, self.sampled, rng)
        rows = F.normalize(self.matrix.take(ids), dim=1)
        f = F.normalize(image, dim=1)
        loss = sampled_prototype_softmax(
            f, rows, ids, labels, SCALE, margin=MARGIN, unit_norm=True
        ).loss
        torch.autograd.backward(loss)
        self.matrix.update_(RATE)

    def bytes_of(self, batch: int) -> tuple[int, int]:
        """Held, and added by a step: rows, unit rows, their gradients."""
        m = self.matrix
        return ClassMatrix.num_bytes(m.num_classes, m.dim, "full"), 16 * self.sampled * m.dim


class Full:
    """All logits, a dense gradient, AdamW over the whole matrix."""

    def __init__(self, classes: int, dim: int) -> None:
        self.weight = torch.nn.Parameter(torch.empty(classes, dim).normal_(std=0.02))
        self.optimizer = torch.optim.AdamW([self.weight], lr=RATE, weight_decay=0.0, fused=True)

    def step(self, image: Tensor, labels: Tensor) -> None:
        """Loss, backward, update."""
        f, w = F.normalize(image, dim=1), F.normalize(self.weight, dim=1)
        logits = f @ w.T
        logits[torch.arange(len(labels)), labels] -= MARGIN
        self.optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(SCALE * logits, labels))
        self.optimizer.step()

    def bytes_of(self, batch: int) -> tuple[int, int]:
        """Held, and added by a step: logits twice with gradients, unit matrix, two gradients."""
        classes, dim = self.weight.shape
        return 12 * classes * dim, 4 * classes * (4 * batch + 3 * dim)


def seconds(step: Callable[[Tensor, Tensor], None], image: Tensor, labels: Tensor) -> float:
    """CPU seconds of a step."""
    start = time.process_time()
    step(image, labels)
    return time.process_time() - start


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--sampled", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for classes in args.classes:
        image = torch.randn(args.batch, args.dim)
        labels = torch.randint(classes, (args.batch,))
        forms: dict[str, Sampled | Full] = {
            "sampled": Sampled(classes, args.dim, args.sampled),
            "full": Full(classes, args.dim),
        }
        times: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(args.rounds + 1):  # interleaved: a busy moment hits both
            for name, form in forms.items():
                times[name].append(seconds(form.step, image, labels))
        found = {name: 1000 * statistics.median(values[1:]) for name, values in times.items()}
        size = {name: form.bytes_of(args.batch) for name, form in forms.items()}
        for name in forms:
            held, added = (f"{value / MIB:.0f}" for value in size[name])
            ratio = f"{found['full'] / found[name]:.1f}"
            print(f"C={classes:,} {name}: {found[name]:.1f} ms ({ratio}x), {held} + {added} MiB")
            rows.append(
                [
                    classes,
                    name,
                    args.sampled,
                    args.batch,
                    args.dim,
                    f"{found[name]:.1f}",
                    held,
                    added,
                ]
            )
    names = ["classes", "form", "sampled", "batch", "dim", "cpu_ms", "held_mib", "step_mib"]
    write_table(names, rows, OUT)


if __name__ == "__main__":
    main()
