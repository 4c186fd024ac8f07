#!/usr/bin/env python3
"""Time of every loss over its plain form in torch, from the smallest batches on.

    make bench KERNEL=ratios                                    # N = 16 ... 4096, D = 128 and 512
    python benchmarks/bench_ratios.py --against ../before       # another checkout in the same run
    python benchmarks/bench_ratios.py --sizes 65536 --losses clip --names ours
    python benchmarks/bench_ratios.py --operations              # number of operations, not time

Method. One thread, forward and backward from raw embeddings (normalised inside). Every round runs
each contender for some milliseconds, in turning order; reported is the median over the rounds of
the ratio to the plain form within the round. Every contender runs in a process of its own, so that
two checkouts of this repository can be compared; before it is timed, its loss and gradients must
agree with those of the plain form. Freed memory stays with the process, as in a long run. Memory is
the growth of the high-water mark during a step.

Writes benchmarks/results/ratios.csv (with --quick: build/bench/ratios.csv).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))
sys.path.append(str(ROOT))  # behind the checkout that PYTHONPATH names
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from ratio_contenders import LOSSES, NAMES, Case, step

MILLISECONDS = 8  # of every contender in a round
FREE = frozenset(  # views and empty storage, which launch nothing
    [
        "view",
        "as_strided",
        "detach",
        "alias",
        "expand",
        "transpose",
        "t",
        "select",
        "slice",
        "unsqueeze",
        "squeeze",
        "diagonal",
        "empty",
        "empty_like",
        "empty_strided",
        "split",
    ]
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, 3 rounds")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64, 256, 512, 1024, 4096])
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--names", nargs="+", choices=NAMES, default=["plain", "ours"])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--against", type=Path, help="another checkout, reported as `before`")
    parser.add_argument("--memory", action="store_true", help="peak memory as well")
    parser.add_argument("--operations", action="store_true", help="count operations, no time")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.sizes, args.dims, args.rounds = [16, 64], [32], 3
    return args


# --- one contender, in a process of its own -------------------------------------------------------


def serve() -> None:
    """Answers requests on standard input, one JSON object a line, until it is closed."""
    torch.set_num_threads(1)
    run: Callable[[], Any] = lambda: None  # noqa: E731
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if "name" in request:
            try:
                run = step(request.pop("name"), Case(**request))
                answer["values"] = [float(x) for x in run()]
            except ImportError as error:
                answer["missing"] = str(error)
        elif "calls" in request:
            begin = time.process_time()  # work, not waiting for other processes
            for _ in range(request["calls"]):
                run()
            answer["seconds"] = (time.process_time() - begin) / request["calls"]
        elif "memory" in request:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (Linux)
            before = resident("VmRSS")
            run()
            answer["mib"] = (resident("VmHWM") - before) / 1024
        else:
            answer["operations"] = operations(run)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def resident(field: str) -> int:
    """A field of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def operations(run: Callable[[], Any]) -> int:
    """Operations that a step dispatches, views and empty storage left out."""
    from torch.utils._python_dispatch import TorchDispatchMode

    count = 0

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Adds up what passes."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal count
            count += func.overloadpacket.__name__.strip("_") not in FREE
            return func(*args, **(kwargs or {}))

    with Count():  # type: ignore[no-untyped-call]
        run()
    return count


def memory(name: str, case: Case, root: Path) -> float:
    """Growth of the high-water mark during a second step, in MiB, in a process of its own."""
    worker = Worker(root, keeps_memory=False)
    worker.ask(name="ours" if name == "before" else name, **case._asdict())
    found: float = worker.ask(memory=1)["mib"]
    worker.close()
    return found


class Worker:
    """A process with one contender."""

    def __init__(self, root: Path, keeps_memory: bool = True) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        if keeps_memory:  # as in a long run; else the page faults of the allocator decide
            environment |= {
                "MALLOC_TRIM_THRESHOLD_": str(2**34),
                "MALLOC_MMAP_THRESHOLD_": str(2**25),
            }
        self.root = root
        command = [sys.executable, __file__, "--serve"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=root
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender died on {request}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End of the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# --- the comparison -------------------------------------------------------------------------------


def measure(case: Case, workers: dict[str, Worker], args: argparse.Namespace) -> dict[str, Any]:
    """Per contender milliseconds, ratio to the plain form, and what else was asked for."""
    names: dict[str, Worker] = {}
    first: list[float] = []
    for name, worker in workers.items():
        told = worker.ask(name="ours" if name == "before" else name, **case._asdict())
        if "missing" in told:
            continue
        first = first or told["values"]
        off = [abs(a - b) / max(1e-3, abs(b)) for a, b in zip(told["values"], first, strict=True)]
        if not max(off) < 2e-3:
            raise SystemExit(f"{name} {case}: {told['values']}, expected {first}")
        names[name] = worker
    found: dict[str, Any] = {name: {} for name in names}
    if args.operations:
        return {name: {"operations": w.ask(count=1)["operations"]} for name, w in names.items()}
    calls = {}
    for name, worker in names.items():
        seconds = min(worker.ask(calls=1)["seconds"] for _ in range(2))
        calls[name] = max(1, round(MILLISECONDS / 1000 / max(seconds, 1e-6)))
        if args.memory:
            found[name]["mib"] = memory(name, case, worker.root)
    times: dict[str, list[float]] = {name: [] for name in names}
    order = list(names)
    for turn in range(args.rounds):
        shift = turn % len(order)
        for name in order[shift:] + order[:shift]:
            times[name].append(names[name].ask(calls=calls[name])["seconds"])
    for name, seconds in times.items():
        found[name]["ms"] = 1000 * statistics.median(seconds)
        if "plain" in times:
            ratios = [a / b for a, b in zip(seconds, times["plain"], strict=True)]
            found[name]["ratio"] = statistics.median(ratios)
    return found


def main() -> None:
    """Run what the command line asks for."""
    args = parse()
    if args.serve:
        serve()
        return
    from measure import results_folder, write_rows

    processor = next(
        (x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")),
        "unknown processor",
    )
    print(processor.split(":")[-1].strip(), "torch", torch.__version__, flush=True)
    names = [*args.names, *(["before"] if args.against else [])]
    workers = {n: Worker(args.against.resolve() if n == "before" else ROOT) for n in names}
    rows: list[dict[str, object]] = []
    for loss in args.losses:
        for dim in args.dims:
            for num in args.sizes:
                found = measure(Case(loss, num, dim), workers, args)
                cells = [
                    f"{name} " + " ".join(f"{k} {v:.3g}" for k, v in values.items())
                    for name, values in found.items()
                ]
                print(f"{loss:14} D={dim:<4} N={num:<6}", " | ".join(cells), flush=True)
                here = {"processor": processor.split(":")[-1].strip(), "torch": torch.__version__}
                rows += [
                    {"loss": loss, "dim": dim, "n": num, "name": name, **values, **here}
                    for name, values in found.items()
                ]
    for worker in workers.values():
        worker.close()
    write_rows(rows, args.out or results_folder(args.quick) / "ratios.csv")


if __name__ == "__main__":
    main()
