"""Runs of a comparison at the same time, each in a process of its own; ended with their parent."""

import os
import signal
import time
from collections.abc import Iterator, Sequence

from common.config import UserError
from common.engine.comparison.processes import POLL, RunProcess, told_to_end, why_failed
from common.engine.comparison.runs import PlannedRun


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
    waiting = [run for run in runs if not run.done]
    if not waiting:
        return
    from common.engine.progress import track  # loads Lightning

    for _ in track(_work(waiting, max(1, jobs), lowest_priority), f"{title}: runs", len(waiting)):
        continue


def _work(waiting: list[PlannedRun], jobs: int, lowest_priority: bool) -> Iterator[PlannedRun]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: list[tuple[PlannedRun, RunProcess]] = []
    with told_to_end() as told:
        try:
            while waiting or running:
                for run in list(waiting):
                    if run.done:  # by another command that held its lock
                        waiting.remove(run)
                        yield run
                    elif len(running) < jobs and (process := run.start(threads)):
                        if lowest_priority:
                            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
                        waiting.remove(run)
                        running.append((run, process))
                time.sleep(POLL)
                if told.is_set():
                    raise SystemExit(128 + signal.SIGTERM)
                for run, process in list(running):
                    if _finished(run, process):
                        running.remove((run, process))
                        yield run
        finally:
            for _, process in running:
                process.ask_to_end()
            for _, process in running:
                process.end()


def _finished(run: PlannedRun, process: RunProcess) -> bool:
    """Whether a run has ended well.

    Raises:
        UserError: it has failed; the message has the last line of its log.
    """
    code = process.ended()
    if code is None:
        return False
    if code or not run.done:
        raise UserError(f"{run.run_id} failed: {why_failed(run.path)}")
    return True
