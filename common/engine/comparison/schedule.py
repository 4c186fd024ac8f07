"""Runs of a comparison at the same time, each in a process of its own; ended with their parent."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from common.engine.comparison.runs import PlannedRun, Started

POLL = 0.2  # seconds between looks at the processes


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
    with told_to_end() as told:
        try:
            while waiting or running:
                for run in list(waiting):
                    if run.done:  # by another process that held its lock
                        waiting.remove(run)
                        yield run
                    elif len(running) < jobs and (started := run.start(threads, lowest_priority)):
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
