"""Memory of a call, and rows of a benchmark as CSV."""

import csv
import os
import platform
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


def results_folder(quick: bool) -> Path:
    """Where a benchmark writes: benchmarks/results, which is published, or build/bench if it was a quick one."""
    return ROOT / "build" / "bench" if quick else ROOT / "benchmarks" / "results"


def growth(prepare: Callable[[], Callable[[], object]], calls: int = 1) -> float:
    """Growth of the resident set by some calls in a process of its own, in MiB.

    Args:
        prepare: makes what is called; what it holds itself does not count.
        calls: of it.

    Raises:
        RuntimeError: the process failed, its traceback is on stderr.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run = prepare()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(calls):
                run()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            os.write(write, str(grown).encode())
            code = 0
        except Exception:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as file:
        found = file.read()
    os.waitpid(child, 0)
    if not found:
        raise RuntimeError("the process that measures memory failed")
    return float(found)


def write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """CSV with the keys of the first row; overwritten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_table(names: Sequence[str], rows: Sequence[Sequence[object]], path: Path) -> None:
    """`write_rows` of cells in the order of the names, each row with the machine and torch's version."""
    here = {"machine": platform.machine(), "torch": torch.__version__}
    write_rows([dict(zip(names, row, strict=True)) | here for row in rows], path)
