"""Runs that are forked from a process which has loaded what they need."""

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from common.engine.comparison import runs, schedule
from common.engine.comparison.schema import Comparison
from common.engine.lifecycle import forks
from common.engine.lifecycle.forks import Forks, Server, Unavailable

CLI = """
import os, pathlib, sys, time
import heavy
print(sys.argv[1:], os.getpid() == os.getsid(0), heavy.loaded_by == os.getppid(), sys.stdin.read() == "")
if sys.argv[1] == "fail":
    sys.exit(3)
if sys.argv[1] == "sleep":
    time.sleep(60)
"""


@pytest.fixture
def tree(tmp_path):
    """A folder of code whose command line tells how it was started."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common/__init__.py").touch()
    (tmp_path / "common/cli.py").write_text(CLI)
    (tmp_path / "heavy.py").write_text("import os\nloaded_by = os.getpid()\nprint('noise')\n")
    return tmp_path


@pytest.fixture
def environment(tree):
    own = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    return {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | own


@pytest.fixture
def server(tree, environment):
    server = Server(["heavy", "missing.module"], environment, tree)
    yield server
    server.close()


def finished(process):
    deadline = time.monotonic() + 30
    while (code := process.ended()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return code


def test_each_run_is_a_process_of_its_own_with_the_modules_loaded(server, tmp_path):
    """Arguments, a session of its own, modules of its parent, nothing to read."""
    first = server.start(["train", "x"], tmp_path / "a.txt", 1)
    second = server.start(["fail"], tmp_path / "b.txt", 1)
    assert finished(first) == 0
    assert finished(second) == 3
    assert (tmp_path / "a.txt").read_text() == "['train', 'x'] True True True\n"
    assert (tmp_path / "b.txt").read_text() == "['fail'] True True True\n"


def test_a_run_holds_its_log_and_another_waits(server, tmp_path):
    run = server.start(["sleep"], tmp_path / "log.txt", 0.2)
    assert runs.is_held(tmp_path)
    assert server.start(["train"], tmp_path / "log.txt", 1) is None
    run.end()
    assert run.ended() == -signal.SIGKILL
    assert not runs.is_held(tmp_path)
    again = server.start(["train"], tmp_path / "log.txt", 1)
    assert finished(again) == 0


def test_a_run_ends_when_it_is_asked_to(server, tmp_path):
    run = server.start(["sleep"], tmp_path / "log.txt", 30)
    run.ask_to_end()
    assert finished(run) == -signal.SIGTERM


def test_runs_outlive_the_server_and_it_ends_with_its_owner(server, tmp_path):
    run = server.start(["sleep"], tmp_path / "log.txt", 0.2)
    server.close()
    assert run.ended() is None
    with pytest.raises(Unavailable):
        server.start(["train"], tmp_path / "b.txt", 1)
    os.killpg(run.pid, signal.SIGKILL)
    assert finished(run) == 0  # nobody was told how; `Started.finished` asks for its metrics


def test_a_run_starts_without_a_server_where_there_is_none(tree, tmp_path, monkeypatch):
    """The one that it had was killed, or never came up."""
    pool = Forks(["heavy"])
    monkeypatch.setenv("PYTHONPATH", "")
    folder = tmp_path / "run"
    words = [*runs.COMMAND, "train"]
    forked = runs.start_process(folder, words, 1, tree, pool)
    assert isinstance(forked, forks.ForkedProcess)
    assert finished(forked) == 0
    pool.servers[tree].popen.kill()
    pool.servers[tree].popen.wait()
    plain = runs.start_process(folder, words, 1, tree, pool)
    assert isinstance(plain, runs.RunProcess)
    plain.popen.wait(30)
    assert (folder / "log.txt").read_text().splitlines() == [
        "['train'] True True True",
        "noise",
        "['train'] True False True",  # it loaded the module itself
    ]
    pool.close()
    (tree / "heavy.py").write_text("raise SystemExit(1)")
    broken = Forks(["heavy"])
    assert broken.of(tree, runs.process_environment(1, tree)) is None
    broken.close()


def test_a_process_with_threads_is_not_forked(tree, environment):
    (tree / "heavy.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,),"
        " daemon=True).start()\n"
    )
    with pytest.raises(Unavailable):
        Server(["heavy"], environment, tree)


def test_threads_are_counted():
    program = "from common.engine.lifecycle.forks import alone; print(alone())"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "True\n"
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert not forks.alone()
    stop.set()
    thread.join()


def test_what_another_process_works_on_is_not_forked(server, tmp_path):
    with (tmp_path / "log.txt").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert server.start(["train"], tmp_path / "log.txt", 1) is None


def test_a_run_that_cannot_be_forked_leaves_the_others_alone(server, tmp_path):
    first = server.start(["sleep"], tmp_path / "a.txt", 0.2)
    with pytest.raises(Unavailable, match="No such file"):
        server.start(["train"], tmp_path / "missing/b.txt", 1)
    assert first.ended() is None
    again = server.start(["train"], tmp_path / "c.txt", 1)
    assert finished(again) == 0
    first.end()
    assert first.ended() == -signal.SIGKILL


def test_ctrl_c_does_not_leave_an_answer_for_the_next_request(server, tmp_path, monkeypatch):
    """The next request read it as its own."""
    read = server._read

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        return read()

    monkeypatch.setattr(server, "_read", interrupted)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            server.start(["train"], tmp_path / "a.txt", 1)
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(server, "_read", read)
    assert finished(server.start(["fail"], tmp_path / "b.txt", 1)) == 3


def test_one_that_has_ended_and_is_not_asked_for_does_not_run():
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 30
    while forks._runs(child.pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, 0)  # a zombie is still there
    child.wait()
    assert not forks._runs(child.pid)
    assert forks._runs(os.getpid())


def test_a_folder_without_the_command_line_serves_nobody(tree, environment):
    for path in (tree / "common").glob("*"):
        path.unlink()
    (tree / "common").rmdir()
    with pytest.raises(Unavailable):
        Server(["heavy"], environment, tree)


def test_what_is_loaded_beforehand_is_there():
    for name in schedule.LOADED:
        assert importlib.util.find_spec(name) is not None


@pytest.mark.slow
def test_runs_of_a_comparison_are_forked(tmp_path, monkeypatch):
    """An arm of a real project."""
    monkeypatch.setattr(runs, "_accelerated", lambda: False)
    monkeypatch.setattr(schedule, "FEW", 0)
    started = []
    start = Server.start
    monkeypatch.setattr(Server, "start", lambda *own: started.append(start(*own)) or started[-1])
    words = [f"runs_dir={tmp_path}", "trainer.max_steps=1"]
    plan = [runs.PlannedRun("dcl", Comparison(arms={"a": {}}, base="smoke"), "a", 7, words)]
    schedule.run_all(plan, 1)
    assert len(started) == 1
    assert started[0].ended() == 0
    assert plan[0].meta()["seed"] == 7
