#!/usr/bin/env python3
"""Time and memory of the contrastive losses on a CPU, against public implementations.

    python benchmarks/bench_losses.py --quick          # tiny sizes: does everything run?
    python benchmarks/bench_losses.py                  # N = 256 ... 16384, D = 512
    python benchmarks/bench_losses.py --with-peers     # installs missing peers into .bench-venv
    python benchmarks/bench_losses.py --merge --sizes 16384 --cases symmetric --names ours open_clip

Method. Forward and backward of one loss; the reference is three N x N x D products (what a
dense loss with one similarity matrix needs at least), measured in the same process. Every round
runs the reference and then each contender once, in rotating order; reported is the median over the
rounds of the ratio within a round, once for CPU time of the process (robust on a shared machine)
and once for wall time. Peak extra memory is the high-water mark of a second run in a process of its
own, minus what was resident before. Before measuring, all contenders of a case must agree on the
value of the loss. Waiting threads sleep (OMP_WAIT_POLICY=passive), so that CPU time is work and not
spinning. With --merge the measured rows replace those of an earlier run on the same machine.

Writes benchmarks/results/losses.csv and losses.png and the tables between the markers in
docs/performance.md; with --quick only csv and png, to build/bench.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
PEER_ENV = ROOT / ".bench-venv"
PEERS = ("lightly", "lightly-utils", "sentence-transformers", "pytorch-metric-learning")

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported
import torch
from loss_contenders import Loss, contenders
from loss_report import Row, merged, table, write_csv, write_figure
from measure import results_folder
from report_tables import PAGE, replace_block
from torch import Tensor


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, 2 rounds, no tables")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 4096, 8192, 16384])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--with-peers", action="store_true", help="install peers in .bench-venv")
    parser.add_argument("--cases", nargs="+", help="only these cases")
    parser.add_argument("--names", nargs="+", help="only contenders whose names start so")
    parser.add_argument("--merge", action="store_true", help="keep other rows of the results")
    parser.add_argument("--memory-of", nargs=3, metavar=("CASE", "NAME", "N"), help="internal")
    args = parser.parse_args(argv)
    if args.quick:
        args.sizes, args.rounds, args.dim = [256], 2, 64
    return args


def enter_peer_environment() -> None:
    """Install missing peers into a throw-away environment and restart there.

    It sees the packages of the current environment through a .pth file, so torch stays the same.
    """
    import site

    python = PEER_ENV / "bin" / "python"
    if Path(sys.prefix) == PEER_ENV:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER_ENV)], check=True)
        own = next((PEER_ENV / "lib").glob("python*/site-packages"))
        (own / "parent.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PEERS]
        if subprocess.run(install, check=False).returncode:
            sys.stderr.write("peers could not be installed; they will be reported as missing\n")
    os.execv(str(python), [str(python), *sys.argv])


def inputs(num: int, dim: int) -> tuple[Tensor, Tensor]:
    """Two matrices of unit rows that correlate, as late in training."""
    generator = torch.Generator().manual_seed(num)
    q = torch.randn(num, dim, generator=generator)
    k = q + 1.5 * torch.randn(num, dim, generator=generator)
    normalize = torch.nn.functional.normalize
    return normalize(q).requires_grad_(), normalize(k).requires_grad_()


def floor(num: int, dim: int) -> Callable[[], None]:
    """Three products N x N x D with preallocated results."""
    q, k = (x.detach() for x in inputs(num, dim))
    square, out = torch.empty(num, num), torch.empty(num, dim)

    def run() -> None:
        torch.mm(q, k.T, out=square)
        torch.mm(square, k, out=out)
        torch.mm(square.T, q, out=out)

    return run


class Step:
    """Forward and backward of one loss; calling it returns the loss."""

    def __init__(self, loss: Loss, num: int, dim: int) -> None:
        self.loss = loss
        self.q, self.k = inputs(num, dim)

    def clear(self) -> None:
        """Drop the gradients."""
        self.q.grad = self.k.grad = None

    def __call__(self) -> float:
        """One step."""
        self.clear()
        value = self.loss(self.q, self.k)
        value.backward()
        return value.item()


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure_case(case: str, num: int, args: argparse.Namespace) -> list[Row]:
    """Interleaved rounds of all installed contenders of a case at one size."""
    rows: list[Row] = []
    steps: dict[str, Step] = {}
    values: dict[str, float] = {}
    wanted = tuple(args.names or [""])
    for entry in (c for c in contenders() if c.case == case and c.name.startswith(wanted)):
        rows.append({"case": case, "name": entry.name, "n": num, "version": entry.version})
        if entry.version is None or num > entry.largest:
            rows[-1]["note"] = "not installed" if entry.version is None else "not run at this size"
            continue
        steps[entry.name] = Step(entry.make(), num, args.dim)
        values[entry.name] = steps[entry.name]()  # also warms up
    reference = floor(num, args.dim)
    reference()
    agree(case, values)
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    for turn in range(args.rounds):
        base = timed(reference)
        names = list(steps)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            cpu, wall = timed(steps[name])
            times[name].append((cpu, wall, cpu / base[0], wall / base[1]))
    for row in rows:
        if row["name"] in times:
            medians = [statistics.median(x) for x in zip(*times[str(row["name"])], strict=True)]
            row.update(zip(("cpu_s", "wall_s", "cpu_ratio", "wall_ratio"), medians, strict=True))
            row["extra_mib"] = extra_memory(case, str(row["name"]), num, args)
    return rows


def agree(case: str, values: dict[str, float]) -> None:
    """Stop if two contenders of a case do not compute the same loss."""
    first = next(iter(values.values()))
    for name, value in values.items():
        if not abs(value - first) <= 1e-4 * max(1.0, abs(first)):  # a NaN agrees with nothing
            raise SystemExit(f"{case}: {name} gives {value}, expected {first}: not comparable")


def extra_memory(case: str, name: str, num: int, args: argparse.Namespace) -> float | None:
    """Peak extra MiB in a process of its own; None where the system cannot tell."""
    command = [sys.executable, __file__, "--memory-of", case, name, str(num)]
    command += ["--dim", str(args.dim), "--threads", str(args.threads)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory is given back
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.stderr.write(f"memory of {name} at N={num} not measured: {done.stderr[-300:]}\n")
        return None
    return float(done.stdout.split()[-1])


def report_memory(case: str, name: str, num: int, dim: int) -> None:
    """Child process: high-water mark of a second step over what was resident before it."""
    entry = next(c for c in contenders() if (c.case, c.name) == (case, name))
    step = Step(entry.make(), num, dim)
    step()  # first use: libraries, compilation
    step.clear()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (Linux)
    before = resident("VmRSS")
    step()
    sys.stdout.write(f"{(resident('VmHWM') - before) / 1024:.1f}\n")


def resident(field: str) -> int:
    """A field of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    """Run what the command line asks for."""
    args = parse()
    if args.with_peers and not args.memory_of:
        enter_peer_environment()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)  # from inductor's own code
    if args.memory_of:
        case, name, num = args.memory_of
        report_memory(case, name, int(num), args.dim)
        return
    rows: list[Row] = []
    for num in args.sizes:
        for case in dict.fromkeys(c.case for c in contenders()):
            if args.cases and case not in args.cases:
                continue
            sys.stderr.write(f"N={num} {case}\n")
            rows += measure_case(case, num, args)
    setting = {"dim": args.dim, "threads": args.threads, "rounds": args.rounds}
    out = results_folder(args.quick)
    rows = merged(rows, setting, out / "losses.csv") if args.merge else merged(rows, setting)
    write_csv(rows, out / "losses.csv")
    write_figure(rows, out / "losses.png")
    if not args.quick:
        replace_block(PAGE, "losses", table(rows) + "\n")


if __name__ == "__main__":
    main()
