"""Processes of the tests: forks where that is possible, since a fork costs no imports."""

import multiprocessing as mp
import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch


def forked(target: Callable[..., object], *args: object, daemon: bool = False) -> BaseProcess:
    """Start a function in a process of its own; where CUDA is in use, which no fork survives, a new one.

    Args:
        target: of a module, with arguments that can be pickled.
        args: its arguments.
        daemon: ends with the tests, whatever becomes of the one that started it.
    """
    start = "spawn" if torch.cuda.is_available() else "fork"
    process: BaseProcess = mp.get_context(start).Process(target=target, args=args, daemon=daemon)  # type: ignore[attr-defined]
    process.start()
    return process


def print_to(out: Path, errors: Path) -> None:
    """From now on standard output and errors of this process go to these files, line by line."""
    for number, name, path in ((1, "stdout", out), (2, "stderr", errors)):
        stream = path.open("w", encoding="utf-8", buffering=1)
        os.dup2(stream.fileno(), number)
        setattr(sys, name, stream)
