"""Runs of a comparison at the same time, each in a process of its own; ended with their parent."""

import os
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeVar

from common.config import UserError
from common.engine.comparison.processes import POLL, RunProcess, told_to_end, why_failed
from common.engine.comparison.runs import PlannedRun


class Startable(Protocol):
    """A run that a process of its own makes."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def done(self) -> bool:
        """Whether it has its metrics."""

    def start(self, threads: int) -> RunProcess | None:
        """Start its process; None while another process works on it."""


R = TypeVar("R", bound=Startable)


def run_all(
    runs: Sequence[PlannedRun], jobs: int, *, lowest_priority: bool = False, title: str = "compare"
) -> None:
    """Run what has no metrics yet; what was interrupted goes on where it was.

    Args:
        runs: in the order in which they are started.
        jobs: processes at the same time; the cores are divided between them.
        lowest_priority: of the processes, to leave the machine to others.
        title: of the progress display.

    Raises:
        UserError: a run has failed; the others are ended.
        SystemExit: SIGTERM has asked this process to end; its runs are ended first.
    """
    missing = [run for run in runs if not run.done]
    if not missing:
        return
    from common.engine.progress import track  # loads Lightning

    with closing(run_each(missing, jobs, lowest_priority)) as ended:
        for run, failure in track(ended, f"{title}: runs", len(missing)):
            if failure is not None:
                raise UserError(f"{run.run_id} failed: {failure}")


def run_each(
    runs: Sequence[R], jobs: int, lowest_priority: bool = False
) -> Generator[tuple[R, str | None]]:
    """Yield each run as it ends, with the last line of its log if it has failed.

    Closing the generator ends the processes that still run.

    Args:
        runs: without metrics, in the order in which they are started.
        jobs: processes at the same time.
        lowest_priority: of the processes.

    Raises:
        SystemExit: as `run_all`.
    """
    waiting, jobs = list(runs), max(1, jobs)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: list[tuple[R, RunProcess]] = []
    with told_to_end() as told:
        try:
            while waiting or running:
                for run in list(waiting):
                    if run.done:  # by another command that held its lock
                        waiting.remove(run)
                        yield run, None
                    elif len(running) < jobs and (process := run.start(threads)):
                        if lowest_priority:
                            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
                        waiting.remove(run)
                        running.append((run, process))
                time.sleep(POLL)
                if told.is_set():
                    raise SystemExit(128 + signal.SIGTERM)
                for run, process in list(running):
                    if (code := process.ended()) is not None:
                        running.remove((run, process))
                        failed = code or not run.done
                        yield run, why_failed(run.path) if failed else None
        finally:
            for _, process in running:
                process.ask_to_end()
            for _, process in running:
                process.end()
