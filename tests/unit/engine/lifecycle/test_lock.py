"""One process owns a run folder; a lock whose process is gone does not block it."""

import errno
import json
import multiprocessing as mp
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from common.config import UserError
from common.engine.lifecycle import lock


def locked_by(folder, pid, **values):
    own = {"pid": pid, "host": socket.gethostname(), "birth": lock._birth(pid), "job": None}
    content = {**own, "started": "2026-01-01T00:00:00", **values}
    (folder / lock.NAME).write_text(json.dumps(content), encoding="utf-8")


def owner(folder):
    return json.loads((folder / lock.NAME).read_text())["pid"]


def test_a_lock_names_its_process_and_goes_with_it(tmp_path):
    lock.acquire(tmp_path)
    assert owner(tmp_path) == os.getpid()
    assert lock.held(tmp_path)
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* since 20"):
        lock.acquire(tmp_path)
    lock.release(tmp_path)
    assert not lock.held(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_living_process_of_this_host_keeps_its_lock(tmp_path):
    locked_by(tmp_path, os.getppid())
    with pytest.raises(UserError, match="wait for it to end"):
        lock.acquire(tmp_path)
    lock.release(tmp_path)
    assert owner(tmp_path) == os.getppid()


def test_locks_of_the_dead_are_taken_over(tmp_path):
    """Ended, ended but not yet waited for, its id used again, died while writing the lock."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    locked_by(tmp_path, gone.pid, birth=12345.0)
    lock.acquire(tmp_path)
    assert owner(tmp_path) == os.getpid()
    lock.release(tmp_path)

    zombie = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    locked_by(tmp_path, zombie.pid)
    assert lock.held(tmp_path)
    zombie.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while lock.held(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    lock.acquire(tmp_path)
    lock.release(tmp_path)
    zombie.wait()

    locked_by(tmp_path, os.getppid(), birth=lock._birth(os.getppid()) - 1)
    lock.acquire(tmp_path)
    lock.release(tmp_path)
    (tmp_path / lock.NAME).write_text('{"pid": 1, "ho')
    lock.acquire(tmp_path)
    assert owner(tmp_path) == os.getpid()


def test_another_host_is_left_to_the_user_unless_the_scheduler_knows(tmp_path, monkeypatch):
    locked_by(tmp_path, 7, host="elsewhere", job="41")
    with pytest.raises(UserError, match=r"cannot be checked from this host: .* delete .*lock.json"):
        lock.acquire(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    with pytest.raises(UserError, match="elsewhere"):
        lock.acquire(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "41")  # the same job, started again
    lock.acquire(tmp_path)
    assert owner(tmp_path) == os.getpid()


def _try(folder, start, results, stop):
    start.wait()
    try:
        lock.acquire(folder)
        results.put(os.getpid())
    except UserError:
        results.put(None)
    stop.wait()


@pytest.mark.slow
def test_of_many_that_find_a_dead_lock_one_gets_it(tmp_path):
    context = mp.get_context("fork")
    for _ in range(5):
        locked_by(tmp_path, os.getpid(), birth=1.0)
        start, stop, results = context.Barrier(6), context.Event(), context.Queue()
        args = (tmp_path, start, results, stop)
        processes = [context.Process(target=_try, args=args) for _ in range(6)]
        for process in processes:
            process.start()
        got = [pid for pid in (results.get(timeout=30) for _ in processes) if pid is not None]
        assert got == [owner(tmp_path)]
        stop.set()
        for process in processes:
            process.join()


# -- locks of the kernel ---------------------------------------------------------------------------


def _hold(folder, ready, end):
    lock.acquire(folder)
    # a process of another container, whose id means nothing here
    content = json.loads((folder / lock.NAME).read_text())
    (folder / lock.NAME).write_text(json.dumps({**content, "pid": 2**30, "birth": 1.0}))
    ready.set()
    end.wait()


def test_a_living_owner_of_another_process_namespace_keeps_its_lock(tmp_path):
    context = mp.get_context("fork")
    ready, end = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, ready, end))
    owner.start()
    assert ready.wait(20)
    assert lock.held(tmp_path)
    with pytest.raises(UserError, match=r"is being written by process 1073741824"):
        lock.acquire(tmp_path)
    owner.kill()
    owner.join()
    assert not lock.held(tmp_path)  # the kernel has given it back
    lock.acquire(tmp_path)
    lock.release(tmp_path)


def test_a_child_of_a_killed_owner_does_not_keep_the_lock(tmp_path):
    """Loader processes outlive a killed run by seconds."""
    lock.acquire(tmp_path)
    context = mp.get_context("fork")
    ready, end = context.Event(), context.Event()
    child = context.Process(target=lambda: (ready.set(), end.wait()))
    child.start()
    assert ready.wait(20)
    handle = lock._handles.pop(tmp_path.resolve() / lock.NAME)
    os.close(handle)  # as by a kill: the name stays
    (tmp_path / lock.NAME).write_text("")
    assert not lock.held(tmp_path)
    end.set()
    child.join()


def test_without_locks_in_the_file_system_living_processes_of_this_host_count(
    tmp_path, monkeypatch, capsys
):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    locked_by(tmp_path, os.getppid())
    with pytest.raises(UserError, match="is being written by process"):
        lock.acquire(tmp_path)
    assert "has no locks" in capsys.readouterr().err
    locked_by(tmp_path, os.getppid(), birth=1.0)
    lock.acquire(tmp_path)
    lock.release(tmp_path)
    assert list(tmp_path.iterdir()) == []
