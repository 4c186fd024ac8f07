"""The lock of a run folder: one process writes in it, a second learns which one.

The owner holds ``lock.json`` by `flock` for the whole run, so the lock ends with the process and
holds across containers of one machine, and across machines where the file system shares locks, as
NFS does by default. The file also names its owner. Where a file system has no locks, a process of
this host that the file names is looked up instead, and a warning documents the difference. A lock
of another host is left to the user in either case: whether locks are shared cannot be seen.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from common.config import UserError
from common.engine.terminal import warn

NAME = "lock.json"
PATIENCE = 0.3  # seconds: whoever looks at a lock holds it for a moment
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_handles: dict[Path, int] = {}  # of the locks that this process holds


def _forget() -> None:
    """A forked child, such as a loader process, must not keep the lock of a parent that died."""
    for handle in _handles.values():
        os.close(handle)
    _handles.clear()


os.register_at_fork(after_in_child=_forget)


def acquire(folder: Path) -> None:
    """Make this process the owner of a run folder.

    Raises:
        UserError: another process owns it, or may own it.
    """
    path = folder.resolve() / NAME
    handle, free = _opened(path)
    other = _parse(handle)
    if (reason := _refusal(folder, other, free)) is not None:
        os.close(handle)
        raise UserError(reason)
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps({**_this_process(), "started": _now()}) + "\n").encode(), 0)
    _handles[path] = handle


def release(folder: Path) -> None:
    """Give a folder back, if this process owns it."""
    path = folder.resolve() / NAME
    if (handle := _handles.pop(path, None)) is None:
        return
    path.unlink(missing_ok=True)  # before the lock goes: nobody else owns the name yet
    os.close(handle)


def held(folder: Path) -> bool:
    """Whether a process owns the folder, or may own it."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        free = _lock(handle, fcntl.LOCK_SH)
        return _refusal(folder, _parse(handle), free) is not None
    finally:
        os.close(handle)


def _refusal(folder: Path, other: dict[str, Any], free: bool) -> str | None:
    """Why a lock with this content cannot be taken; None when it can."""
    if free and not other:
        return None
    owner = "another process"
    if other:
        owner = f"process {other['pid']} on {other['host']} since {other['started']}"
    here = other.get("host") == socket.gethostname()
    # a living process has a lock of its own, but for file systems without locks
    if not free or (here and _birth(other["pid"]) == other["birth"]):
        return f"{folder} is being written by {owner}: wait for it to end, or take another run_id"
    # a scheduler starts a job again only after its old processes are gone
    if here or (other.get("job") and other["job"] == os.environ.get("SLURM_JOB_ID")):
        return None
    return (
        f"{folder} belongs to {owner}, which cannot be checked from this host: "
        f"if that process is gone, delete {folder / NAME}"
    )


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    job = os.environ.get("SLURM_JOB_ID")
    return {"pid": pid, "host": socket.gethostname(), "birth": _birth(pid), "job": job}


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


def _parse(handle: int) -> dict[str, Any]:
    """Content of a lock; empty when there is none, or the owner died while writing it."""
    try:
        content = json.loads(os.pread(handle, 1 << 16, 0))
    except ValueError:
        return {}
    whole = isinstance(content, dict) and {"pid", "host", "birth", "started"} <= content.keys()
    return content if whole else {}


def _opened(path: Path) -> tuple[int, bool]:
    """The lock file, and whether nobody else holds it; this process then does."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        free = _lock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle, free
        os.close(handle)  # its owner deleted it meanwhile


def _lock(handle: int, kind: int) -> bool:
    """Take a lock; False when another process has it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            warn(
                "this file system has no locks (flock): runs are guarded against a second writer "
                "of this host only"
            )
            return True


def _now() -> str:
    return datetime.datetime.now().isoformat(timespec="seconds")
