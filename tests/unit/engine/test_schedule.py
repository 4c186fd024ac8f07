"""Processes of a comparison: threads, priority, failures, resumption, and their end."""

import errno
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.config import UserError
from common.engine.comparison import processes, schedule
from common.engine.comparison import runs as runs_module
from common.engine.comparison.processes import last_line
from common.engine.comparison.runs import PlannedRun
from common.engine.comparison.schedule import run_all
from tests.forked import forked

NO_PROGRESS = SimpleNamespace(track=lambda items, *_: items)
FINISH = "open('metrics.json', 'w').write('{}')"


class Script(PlannedRun):
    """A run whose process is a line of Python in the run's folder."""

    def __init__(self, folder, name, program=FINISH, code="c0de", config="c0f"):
        self.path, self.run_id, self.program, self.code = folder / name, name, program, code
        self.config_hash = config

    def _config_hash(self):
        return "c0f"

    def command(self):
        self.path.mkdir(exist_ok=True)
        program = f"import os, sys, time; os.chdir({str(self.path)!r}); {self.program}"
        return [sys.executable, "-c", program]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without the progress display, which loads Lightning."""
    monkeypatch.setitem(sys.modules, "common.engine.progress", NO_PROGRESS)
    monkeypatch.setattr(schedule, "POLL", 0.02)
    monkeypatch.setattr(runs_module, "code_state", lambda: {"commit": "c0de", "dirty": False})
    monkeypatch.setattr(processes, "GRACE", 0.5)


def test_processes_share_the_cores_and_do_not_spin(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    write = (
        "import json; names = ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY');"
        "json.dump([os.environ[n] for n in names] + [os.nice(0)], open('metrics.json', 'w'))"
    )
    for folder, jobs, lowest, expected in (("1", 3, False, "2"), ("2", 16, True, "1")):
        (tmp_path / folder).mkdir()
        run_all([Script(tmp_path / folder, "a", write)], jobs, lowest_priority=lowest)
        threads, policy, nice = json.loads((tmp_path / folder / "a/metrics.json").read_text())
        assert (threads, policy) == (expected, "passive")
        assert nice == 19 or not lowest
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")  # the user's word counts
    run_all([Script(tmp_path, "b", write)], 1)
    assert json.loads((tmp_path / "b/metrics.json").read_text())[1] == "active"


def test_so_many_run_at_the_same_time_and_finished_ones_not_again(tmp_path):
    at_once = (
        "open('../on-' + str(os.getpid()), 'w'); time.sleep(0.3);"
        "open('metrics.json', 'w').write(str(sum(n[:3] == 'on-' for n in os.listdir('..'))));"
        "os.remove('../on-' + str(os.getpid()))"
    )
    runs = [Script(tmp_path, f"r{i}", at_once) for i in range(4)]
    run_all(runs, 2)
    counts = [int((run.path / "metrics.json").read_text()) for run in runs]
    assert max(counts) == 2
    runs[0].program = runs[1].program = "sys.exit(1)"
    run_all(runs, 2)


def test_a_failed_run_names_the_last_line_of_its_log_and_ends_the_others(tmp_path):
    other = Script(tmp_path, "other", "open('pid', 'w').write(str(os.getpid())); time.sleep(60)")
    bad = Script(tmp_path, "bad", "time.sleep(0.5); print('error: no data\\n'); sys.exit(2)")
    with pytest.raises(UserError, match=r"bad failed: error: no data; see .*log.txt"):
        run_all([other, bad], 2)
    pid = int((other.path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(UserError, match="failed"):  # well, but without metrics
        run_all([Script(tmp_path, "empty", "pass")], 1)


def test_the_last_line_of_a_log(tmp_path):
    (tmp_path / "log").write_text("one\ntwo \n\n")
    assert last_line(tmp_path / "log") == "two"
    (tmp_path / "log").write_text("")
    assert last_line(tmp_path / "log") == "it wrote nothing"


def test_a_run_that_another_process_works_on_is_waited_for(tmp_path):
    run = Script(tmp_path, "a", "sys.exit('started twice')")
    run.path.mkdir()
    with (run.path / "log.txt").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        run.code = "01d"  # of code that has changed: not looked at as long as it waits
        assert run.start(1) is None
        run.code = "c0de"
        (run.path / "metrics.json").write_text("{}")
        run_all([run], 1)
    assert "started twice" not in (run.path / "log.txt").read_text()


def test_a_file_system_without_locks_is_worked_on(tmp_path, monkeypatch):
    """Every lock failed there, so the queue waited for a process that did not exist."""

    def flock(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    run_all([Script(tmp_path, "a")], 1)
    assert (tmp_path / "a/metrics.json").exists()


def test_code_that_has_changed_since_is_not_run_under_the_old_name(tmp_path):
    with pytest.raises(UserError, match="the code has changed"):
        run_all([Script(tmp_path, "a", code="01d")], 1)
    with pytest.raises(UserError, match="the config has changed"):  # a file that was edited
        run_all([Script(tmp_path, "a", config="01d")], 1)
    assert not (tmp_path / "a/metrics.json").exists()


def test_relative_folders_are_those_of_whoever_starts_it(tmp_path, monkeypatch):
    """`contrastive compare` from any folder; the package is found all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    program = "import common.config; open('runs/a/metrics.json', 'w').write('{}')"
    started = processes.start_process(Path("runs/a"), [sys.executable, "-c", program], 1)
    started.popen.wait(60)
    assert started.ended() == 0
    assert (tmp_path / "runs/a/metrics.json").exists()


def queue(folder, stuck):
    """Two runs, one after the other; the second one may be deaf."""
    sys.modules["common.engine.progress"] = NO_PROGRESS
    write = "open('pid', 'w').write(str(os.getpid())); open('metrics.json', 'w').write('{}')"
    deaf = (
        f"import signal; signal.signal(15, signal.SIG_IGN); {write.split(';')[0]}; time.sleep(60)"
    )
    run_all([Script(folder, "a", write), Script(folder, "b", deaf if stuck else write)], 1)


def test_a_queue_that_is_told_to_end_ends_its_runs_and_goes_on_later(tmp_path):
    """Also one that does not listen; what was finished is not run again."""

    first = forked(queue, tmp_path, True)
    deadline = time.monotonic() + 60
    while not ((pid := tmp_path / "b/pid").exists() and pid.read_text()):
        assert time.monotonic() < deadline
        assert first.is_alive()
        time.sleep(0.05)
    done = (tmp_path / "a/pid").read_text()
    first.terminate()
    first.join(30)
    assert first.exitcode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not (tmp_path / "b/metrics.json").exists()
    second = forked(queue, tmp_path, False)
    second.join(60)
    assert second.exitcode == 0
    assert (tmp_path / "b/metrics.json").exists()
    assert (tmp_path / "a/pid").read_text() == done
