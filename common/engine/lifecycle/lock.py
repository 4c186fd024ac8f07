"""The lock of a run folder: one process writes in it, a second learns which one.

``lock.json`` names the process that owns the run. A lock whose process is gone is taken over; one
of another host cannot be judged from here, so the user decides. Whoever looks at the file holds it
by ``flock`` for that moment, so that two processes never take over the same stale lock.
"""

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import psutil

from common.config import UserError

NAME = "lock.json"


def acquire(folder: Path) -> None:
    """Make this process the owner of a run folder.

    Raises:
        UserError: another process owns it, or may own it.
    """
    with _opened(folder / NAME) as file:
        other = _parse(file.read())
        if (reason := _refusal(folder, other)) is not None:
            raise UserError(reason)
        file.seek(0)
        file.truncate()
        file.write(json.dumps({**_this_process(), "started": _now()}) + "\n")


def release(folder: Path) -> None:
    """Give a folder back, if this process owns it."""
    path = folder / NAME
    if not path.exists():
        return
    with _opened(path) as file:
        if _same_process(_parse(file.read()), _this_process()):
            path.unlink()


def held(folder: Path) -> bool:
    """Whether a process owns the folder, or may own it."""
    try:
        other = _parse((folder / NAME).read_text(encoding="utf-8"))
    except OSError:
        return False
    return _refusal(folder, other) is not None


def _refusal(folder: Path, other: dict[str, Any]) -> str | None:
    """Why a lock with this content cannot be taken; None when it can."""
    if not other:
        return None
    owner = f"process {other['pid']} on {other['host']} since {other['started']}"
    if other["host"] != socket.gethostname():
        # a scheduler starts a job again only after its old processes are gone
        if other.get("job") and other["job"] == os.environ.get("SLURM_JOB_ID"):
            return None
        return (
            f"{folder} belongs to {owner}, which cannot be checked from this host: "
            f"if that process is gone, delete {folder / NAME}"
        )
    if _birth(other["pid"]) != other["birth"]:
        return None
    return f"{folder} is being written by {owner}: wait for it to end, or take another run_id"


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    job = os.environ.get("SLURM_JOB_ID")
    return {"pid": pid, "host": socket.gethostname(), "birth": _birth(pid), "job": job}


def _same_process(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(left.get(key) == right[key] for key in ("pid", "host", "birth"))


def _birth(pid: int) -> float | None:
    """When a process was started, so that a later one of the same id differs; None: gone.

    In clock ticks since boot where /proc has them: setting the clock does not change them.
    """
    try:
        if not Path("/proc/self/stat").exists():
            return float(psutil.Process(pid).create_time())
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (OSError, psutil.Error):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks
    return None if fields[0] in "ZX" else float(fields[19])


def _parse(text: str) -> dict[str, Any]:
    """Content of a lock; empty when there is none, or the owner died while writing it."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    whole = isinstance(content, dict) and {"pid", "host", "birth", "started"} <= content.keys()
    return content if whole else {}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The lock file at its start, for this process alone."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            with contextlib.suppress(OSError):  # a file system without flock
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                current = os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                current = False
            if current:  # else its owner has deleted it while we waited
                file.seek(0)
                yield file
                return


def _now() -> str:
    return datetime.datetime.now().isoformat(timespec="seconds")
