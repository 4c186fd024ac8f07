"""Processes of the tests: forks where that is possible, since a fork costs no imports."""

import multiprocessing as mp
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch


def forked(target: Callable[..., object], *args: object, daemon: bool = False) -> BaseProcess:
    """Start a function in a process of its own; where CUDA is in use, which no fork survives, a new
    one.

    Args:
        target: of a module, with arguments that can be pickled.
        args: its arguments.
        daemon: ends with the tests, whatever becomes of the one that started it.
    """
    start = "spawn" if torch.cuda.is_available() else "fork"
    process: BaseProcess = mp.get_context(start).Process(  # type: ignore[attr-defined]
        target=_child, args=(target, torch.get_num_threads(), *args), daemon=daemon
    )
    process.start()
    return process


def _child(target: Callable[..., object], threads: int, *args: object) -> None:
    """Run the function in the child, after torch has made its pool of threads anew.

    A fork loses the pool's threads, and torch replaces the pool at its next use without a lock:
    where the first use is by several threads at once, as transformers reads weights, one of them
    finds no pool ("Invalid thread pool"). Here a single thread uses it first, as a worker of
    torch's DataLoader does.
    """
    torch.set_num_threads(threads)
    target(*args)


def print_to(out: Path, errors: Path, mode: str = "w") -> None:
    """From now on standard output and errors of this process go to these files, line by line."""
    for number, name, path in ((1, "stdout", out), (2, "stderr", errors)):
        stream = path.open(mode, encoding="utf-8", buffering=1)
        os.dup2(stream.fileno(), number)
        setattr(sys, name, stream)
