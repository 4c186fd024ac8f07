#!/usr/bin/env python3
"""Time of every loss over its plain form in torch, from the smallest batches on.

    make bench KERNEL=ratios                                    # N = 16 ... 4096, D = 128 and 512
    python benchmarks/bench_ratios.py --against ../before       # another checkout in the same run
    python benchmarks/bench_ratios.py --sizes 65536 --losses clip --names ours
    python benchmarks/bench_ratios.py --names plain products ours      # the floor
    python benchmarks/bench_ratios.py --names plain open_clip adapter  # as their users call it
    python benchmarks/bench_ratios.py --operations              # number of operations, not time

Method. One thread, forward and backward from raw embeddings (normalised inside). All contenders run
in one process, one call at a time in rotating order, so that other processes on the machine disturb
all of them alike. Reported is the median over the rounds of the ratio of CPU times to the plain form
within the round. The other checkout has a process of its own, with the plain form in it. Before a
contender is timed, its loss and gradients must agree with those of the plain form. `products` is no
loss but the three matrix products that none can leave out. Freed memory stays with the process, as
in a long run. Memory is the growth of the high-water mark during a second step in a fresh process;
with `--rounds 0` this step is also the one that is timed.

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

REPEATS = 3  # with new tensors, whose addresses matter at small sizes
SECONDS = 0.5  # of every contender after which no round is begun, if there were --least
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
    parser.add_argument("--rounds", type=int, default=1501, help="at most")
    parser.add_argument("--least", type=int, default=3, help="rounds, however long they take")
    parser.add_argument("--against", type=Path, help="another checkout, reported as before")
    parser.add_argument("--memory", action="store_true", help="peak memory as well")
    parser.add_argument("--operations", action="store_true", help="count operations, no time")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.quick:
        args.sizes, args.dims, args.rounds = [16, 64], [32], 3
    return args


# --- the contenders of a checkout, in a process of their own --------------------------------------


def serve() -> None:
    """Answers requests on standard input, one JSON object a line, until it is closed."""
    torch.set_num_threads(1)
    runs: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("name", "")
        answer: dict[str, Any] = {}
        if "loss" in request:
            runs.pop(name, None)
            try:
                runs[name] = step(name, Case(**request))
                answer["values"] = [float(x) for x in runs[name]()]
            except ImportError as error:
                answer["missing"] = str(error)
        elif "race" in request:
            raced = {x: runs[x] for x in request["race"]}
            answer["seconds"] = race(raced, request["rounds"], request["least"])
        elif "memory" in request:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (Linux)
            before, begin = resident("VmRSS"), time.process_time()
            runs[name]()
            answer["ms"] = 1000 * (time.process_time() - begin)
            answer["mib"] = (resident("VmHWM") - before) / 1024
        else:
            answer["operations"] = operations(runs[name])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def race(runs: dict[str, Callable[[], Any]], rounds: int, least: int) -> dict[str, list[float]]:
    """CPU seconds of a call of each contender in every round, in rotating order."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in (*runs.values(), *runs.values()):
        run()  # warm
    order = list(runs)
    for turn in range(rounds):
        if turn >= least and max(map(sum, times.values())) > SECONDS:
            break
        shift = turn % len(order)
        for name in order[shift:] + order[:shift]:
            begin = time.process_time()  # work, not waiting for other processes
            runs[name]()
            times[name].append(time.process_time() - begin)
    return times


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


def memory(name: str, case: Case, root: Path) -> dict[str, float]:
    """High-water mark (MiB) and time of a second step, in a process of its own."""
    worker = Worker(root, keeps_memory=False)
    worker.ask(name=name, **case._asdict())
    answer: dict[str, float] = worker.ask(name=name, memory=1)
    worker.close()
    return answer


class Worker:
    """A process with the contenders of a checkout."""

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


def prepare(case: Case, worker: Worker, args: argparse.Namespace) -> list[str]:
    """Set up every contender that is installed, and compare loss and gradients with the first."""
    names: list[str] = []
    first: list[float] = []
    for name in args.names:
        answer = worker.ask(name=name, **case._asdict())
        if "missing" in answer:
            continue
        values = answer["values"]
        first = first or values
        off = [abs(a - b) / max(1e-3, abs(b)) for a, b in zip(values, first, strict=False)]
        if not max(off, default=0) < 2e-3:
            raise SystemExit(f"{name} {case}: {values}, expected {first}")
        names.append(name)
    return names


def measure(case: Case, worker: Worker, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By contender of a checkout: milliseconds, ratio to the plain form, and what was asked for."""
    if args.rounds == 0:
        return {name: memory(name, case, worker.root) for name in args.names}
    times: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        names = prepare(case, worker, args)
        if args.operations:
            return {name: worker.ask(name=name) for name in names}
        request = {"race": names, "rounds": -(-args.rounds // REPEATS), "least": args.least}
        for name, seconds in worker.ask(**request)["seconds"].items():
            times.setdefault(name, []).extend(seconds)
        if max(map(statistics.median, times.values())) > SECONDS / 3:
            break  # large products do not depend on addresses
    result: dict[str, dict[str, float]] = {}
    for name, seconds in times.items():
        result[name] = {"ms": 1000 * statistics.median(seconds)}
        if "plain" in times:
            ratios = [a / b for a, b in zip(seconds, times["plain"], strict=True)]
            result[name]["ratio"] = statistics.median(ratios)
        if args.memory:
            result[name]["mib"] = memory(name, case, worker.root)["mib"]
    return result


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
    workers = {"": Worker(ROOT)}
    if args.against:
        workers[" before"] = Worker(args.against.resolve())
    where = {"processor": processor.split(":")[-1].strip(), "torch": torch.__version__}
    rows: list[dict[str, object]] = []
    for loss in args.losses:
        for dim in args.dims:
            for num in args.sizes:
                results = {
                    name + suffix: values
                    for suffix, worker in workers.items()
                    for name, values in measure(Case(loss, num, dim), worker, args).items()
                }
                cells = [
                    f"{name} " + " ".join(f"{k} {v:.3g}" for k, v in values.items())
                    for name, values in results.items()
                ]
                print(f"{loss:14} D={dim:<4} N={num:<6}", " | ".join(cells), flush=True)
                rows += [
                    {"loss": loss, "dim": dim, "n": num, "name": name, **values, **where}
                    for name, values in results.items()
                ]
    for worker in workers.values():
        worker.close()
    write_rows(rows, args.out or results_folder(args.quick) / "ratios.csv")


if __name__ == "__main__":
    main()
