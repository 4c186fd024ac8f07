"""Gloo processes that are started once per test session and run many functions.

A function to run is defined at the top level of a test module and takes keyword arguments; it finds
its rank by `common.distributed.rank()`. Arguments and results are pickled:

    first, second = pool(2).run(my_worker, batch_size=4)    # results in rank order

Imports cost seconds, so the processes are forked from one server that has them
(`tests/preload.py`), and stay. When a rank raises, the others may hang in a collective: all are
ended, the error is raised with its traceback, and the next `run` starts fresh ones.
"""

import multiprocessing as mp
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests import preload

TIMEOUT_SECONDS = 240.0  # spent only where ranks hang; a loaded machine compiles slowly


class Pool:
    """`world_size` processes with an initialised gloo default group."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, function: Callable[..., Any], **kwargs: Any) -> list[Any]:
        """Call `function(**kwargs)` on every rank and return the results in rank order.

        Raises:
            AssertionError: A rank raised, died, or did not answer in time; says which one and why.
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, kwargs))
        results: dict[int, Any] = {}
        while len(results) < self.world_size:
            missing = [pipe for r, pipe in enumerate(self._pipes) if r not in results]
            ready = wait(missing, TIMEOUT_SECONDS)
            if not ready:
                self._fail(f"ranks {sorted(set(range(self.world_size)) - set(results))} hang")
            for pipe in ready:
                rank = self._pipes.index(pipe)
                try:
                    succeeded, results[rank] = pipe.recv()
                except EOFError:
                    self._fail(f"rank {rank} died")
                if not succeeded:
                    self._fail(f"rank {rank} raised\n{results[rank]}")
        return [results[rank] for rank in range(self.world_size)]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []
        if self._folder is not None:
            self._folder.cleanup()

    def _fail(self, reason: str) -> None:
        self.close()
        raise AssertionError(f"{self.world_size} processes: {reason}")

    def _start(self) -> None:
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["pytest", *preload.MODULES])
        self._folder = tempfile.TemporaryDirectory()
        store = Path(self._folder.name) / "store"
        for rank in range(self.world_size):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, self.world_size, store, there), daemon=True
            )
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)


def _serve(rank: int, world_size: int, store: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=store.as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=TIMEOUT_SECONDS / 2),
    )
    while True:
        try:
            function, kwargs = pipe.recv()
        except EOFError:  # the parent has gone
            return
        try:
            torch.manual_seed(0)
            pipe.send((True, function(**kwargs)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
