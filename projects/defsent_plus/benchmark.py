"""Softmax over all entries of a dictionary: tiles against the dense form, interleaved in one run.

    python -m projects.defsent_plus.benchmark [--rounds 9]

Forward and backward of the cross entropy of B definitions among n frozen entries, gradient to the
definitions alone. The dense form is `torch.nn.functional.cross_entropy` of the (B, n) logits. CPU
milliseconds are the median of the rounds; extra memory is the high-water mark of a process of its
own that runs one form once, minus what was resident when the inputs lay there.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import results_folder, write_table
from common.config import ROOT
from common.losses.auxiliary.prototypes import prototype_softmax

OUT = results_folder(quick=False) / "entry_softmax.csv"
Inputs = tuple[Tensor, Tensor, Tensor]


def tiles(h: Tensor, entries: Tensor, labels: Tensor) -> Tensor:
    """Ours."""
    return prototype_softmax(h, entries, labels, 1.0, unit_norm=False, backend="blocked").loss


def dense(h: Tensor, entries: Tensor, labels: Tensor) -> Tensor:
    """All logits at once."""
    return F.cross_entropy(h @ entries.T, labels)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"tiles": tiles, "dense": dense}


def inputs(batch: int, num_entries: int, dim: int) -> Inputs:
    """Definitions that want a gradient, entries, labels."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(batch, dim, generator=generator).requires_grad_()
    entries = torch.randn(num_entries, dim, generator=generator)
    return h, entries, torch.randint(num_entries, (batch,), generator=generator)


def milliseconds(form: Callable[[Tensor, Tensor, Tensor], Tensor], of: Inputs) -> float:
    """CPU time of one forward and backward pass."""
    start = time.process_time()
    form(*of).backward()
    return 1000 * (time.process_time() - start)


def extra_mib(name: str, sizes: list[int]) -> float:
    """Peak memory of one pass beyond the inputs, in a process of its own."""
    words = [
        sys.executable,
        "-m",
        "projects.defsent_plus.benchmark",
        "--memory-of",
        name,
        *map(str, sizes),
    ]
    return float(subprocess.run(words, check=True, cwd=ROOT, capture_output=True, text=True).stdout)


def memory_of(name: str, sizes: list[int]) -> None:
    """Print it; the small pass before makes what is made once."""
    FORMS[name](*inputs(4, 64, sizes[2])).backward()
    of = inputs(*sizes)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (Linux)
    before = resident("VmRSS")
    FORMS[name](*of).backward()
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """KiB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--entries", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", nargs=4, metavar=("FORM", "B", "N", "D"), help="internal")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        memory_of(args.memory_of[0], [int(n) for n in args.memory_of[1:]])
        return
    rows = []
    for batch in args.batch:
        for num in args.entries:
            of = inputs(batch, num, args.dim)
            torch.testing.assert_close(tiles(*of), dense(*of), rtol=1e-5, atol=1e-5)
            times: dict[str, list[float]] = {name: [] for name in FORMS}
            for _ in range(args.rounds):  # interleaved: a busy moment hits both forms
                for name, form in FORMS.items():
                    times[name].append(milliseconds(form, of))
            ms = {name: statistics.median(values[1:]) for name, values in times.items()}
            mib = {name: extra_mib(name, [batch, num, args.dim]) for name in FORMS}
            timings = ", ".join(f"{n} {ms[n]:.0f} ms {mib[n]:.0f} MiB" for n in FORMS)
            print(f"B={batch} n={num}: {timings}")
            row = [f"{ms[n]:.1f}" for n in FORMS] + [f"{mib[n]:.1f}" for n in FORMS]
            rows.append([batch, num, args.dim, *row])
    names = [*(f"{n}_cpu_ms" for n in FORMS), *(f"{n}_extra_mib" for n in FORMS)]
    write_table(["batch", "entries", "dim", *names], rows, OUT)


if __name__ == "__main__":
    main()
