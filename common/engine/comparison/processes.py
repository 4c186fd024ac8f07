"""Processes of runs: started with their output in a log, ended with the command that started them."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from common.config import ROOT

COMMAND = (sys.executable, "-m", "common.cli")
LOG = "log.txt"
GRACE = 10.0  # seconds between asking a process to end and killing it
POLL = 0.2  # seconds between looks at the processes


class RunProcess:
    """The process of a run, which holds the lock of its log."""

    def __init__(self, popen: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        self.popen, self.log, self.pid = popen, log, popen.pid

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        code = self.popen.poll()
        if code is not None:
            self.log.close()
        return code

    def ask_to_end(self) -> None:
        """Ask it and the processes that it started to end."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGTERM)

    def end(self) -> None:
        """Wait until it has ended, and kill it if it does not end."""
        try:
            self.popen.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait()
        self.log.close()


def start_process(folder: Path, command: Sequence[str], threads: int) -> RunProcess | None:
    """Start the process of a run, its output in the folder's log.

    Args:
        folder: of the run, made if missing.
        command: words.
        threads: of the process.

    Returns:
        None while another process works in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / LOG).open("ab")
    try:  # the process inherits the lock with its output, so it outlives whoever started it
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    except OSError:  # a file system without flock, where two commands can't see each other
        pass
    popen = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=_environment(threads),
    )
    return RunProcess(popen, log)


def is_held(folder: Path) -> bool:
    """Whether a process that `start_process` has started works in a folder."""
    try:
        with (folder / LOG).open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not started, or a file system without flock
        return False
    return False


def _environment(threads: int) -> dict[str, str]:
    """Environment of a process with that many threads, which can import the code from any folder."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        "OMP_WAIT_POLICY": "passive",
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
    }


def why_failed(folder: Path) -> str:
    """The last line of a run's log, and its path."""
    return f"{last_line(folder / LOG)}; see {folder / LOG}"


def last_line(path: Path) -> str:
    """Last line of a log that isn't empty."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


@contextmanager
def told_to_end() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; the process continues until someone looks at it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
