"""Runs of a comparison at the same time, each in a process of its own; ended with their parent."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from common.config import ROOT
from common.engine.comparison.runs import PlannedRun, Started, process_environment
from common.engine.lifecycle.forks import Forks

POLL = 0.2  # seconds between looks at the processes
FEW = 2  # runs for which no process is kept to fork them
# what runs load before they know what they are about; projects/<slug>/module.py beside it
LOADED = ("common.engine.verbs", "common.engine.run")


def run_all(
    runs: Sequence[PlannedRun], jobs: int, *, lowest_priority: bool = False, title: str = "compare"
) -> None:
    """Run what has no metrics yet; what was interrupted goes on where it was.

    Args:
        runs: in the order in which they are started.
        jobs: processes at the same time; the cores are divided between them.
        lowest_priority: of the processes, to work beside something else.
        title: of the progress display.

    Raises:
        UserError: a run has failed; the others are ended.
        SystemExit: this process was told to end (SIGTERM); its runs are ended first.
    """
    waiting = [run for run in runs if not run.done]
    if not waiting:
        return
    from common.engine.progress import track  # loads Lightning

    for _ in track(_work(waiting, max(1, jobs), lowest_priority), f"{title}: runs", len(waiting)):
        continue


def _work(waiting: list[PlannedRun], jobs: int, lowest_priority: bool) -> Iterator[Any]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: list[Started] = []
    forks: Forks | None = None
    if len(waiting) > FEW and all(run.forkable for run in waiting):
        forks = Forks([*LOADED, *sorted({f"projects.{run.project}.module" for run in waiting})])
        for root in {
            run.root for run in waiting
        }:  # before a run asks whether its code is what it was
            forks.of(None if root == ROOT else root, process_environment(threads, root))
    with told_to_end() as told:
        try:
            while waiting or running:
                for run in list(waiting):
                    if run.done:  # by another process that held its lock
                        waiting.remove(run)
                        yield run
                    elif len(running) < jobs and (
                        started := run.start(threads, lowest_priority, forks)
                    ):
                        waiting.remove(run)
                        running.append(started)
                time.sleep(POLL)
                if told.is_set():
                    raise SystemExit(128 + signal.SIGTERM)
                for started in [s for s in running if s.finished()]:
                    running.remove(started)
                    yield started.run
        finally:
            for started in running:
                started.process.ask_to_end()
            for started in running:
                started.process.end()
            if forks is not None:
                forks.close()


@contextmanager
def told_to_end() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; the process goes on until someone looks at it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
