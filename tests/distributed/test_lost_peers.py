"""A process of a run on two devices that dies or stops ends the run within a minute, by its name."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from common.config import UserError
from common.engine.lifecycle import peers
from common.engine.lifecycle.peers import Peers, check_alike, ending
from common.engine.lifecycle.signals import Signals
from common.engine.lifecycle.stalls import Pulse


class Store:
    """The store of a process group, in memory."""

    def __init__(self, error=None):
        self.values, self.error = {}, error

    def set(self, key, value):
        self.values[key] = value.encode()

    def get(self, key):
        return self.values[key]

    def add(self, key, count):
        if self.error:
            raise self.error
        self.values[key] = self.values.get(key, 0) + count
        return self.values[key]


@pytest.fixture
def watch(monkeypatch):
    """`watch(store, ...)`: reason and exit code with which a watching process leaves."""
    monkeypatch.setattr(peers, "BEAT", 0.01)
    monkeypatch.setattr(peers, "PATIENCE", 0.2)
    monkeypatch.setattr(peers, "GRACE", 0.1)

    class Left(BaseException):
        pass

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(peers.os, "_exit", leave)

    def watch(store, children=(), pulse=None):
        said = []
        signals = Signals()
        signals.children = list(children)
        watcher = Peers("fit", signals, pulse or Pulse(60.0), said.append)
        watcher.stop = lambda well: None
        with pytest.raises(Left):
            watcher._watch(store, 0, {0: "rank 0", 1: "rank 1 (process 7 on host)"}, [1])
        return said[0]

    return watch


def test_a_process_without_a_sign_of_life_is_named(watch, capsys):
    assert "rank 1 (process 7 on host) has given no sign of life for" in watch(Store())
    assert capsys.readouterr().err.startswith("error: rank 1 (process 7 on host)")


def test_a_process_that_was_killed_is_named_with_what_to_lower(watch):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.kill()
    child.wait()
    said = watch(Store(), [child])
    assert f"rank 1 (process {child.pid}) was killed by SIGKILL" in said
    assert "lower data.batch_size or data.num_workers" in said
    assert "resume it" in said


def test_the_first_process_is_missed_with_its_store(watch):
    assert "rank 0 is gone (reset)" in watch(Store(ConnectionError("reset")))


@pytest.mark.parametrize(
    ("position", "said"),
    [
        ("8 0 the data of step 5 in b.py:3", r"^rank 1 \(process 7 on host\) waits for the data"),
        ("9 0 step 5 in b.py:3", "^every process waits for step 5 in "),
        ("9 1 step 5 in b.py:3", "^rank 0 waits for step 5 in "),
        ("10 0 the data of step 6 in b.py:3", "^rank 0 waits for step 5 in "),
    ],
)
def test_the_process_that_the_others_wait_for_is_named(watch, position, said):
    """It lives and beats, but its main thread waits for something else, such as a file server."""
    store, pulse = Store(), Pulse(0.05)
    store.set("position/1", position)
    store.values["left/1"] = 1  # so that its beats do not matter here
    for step in range(5):
        pulse.on_train_batch_start(SimpleNamespace(global_step=step), None, None, step)
        pulse.on_train_batch_end(SimpleNamespace(global_step=step))
    pulse.count, pulse.what = 9, "step 5"
    assert re.search(said + r".* and makes no step for \d+ s, so", watch(store, pulse=pulse))


def test_who_has_left_well_or_beats_is_not_missed(monkeypatch):
    monkeypatch.setattr(peers, "BEAT", 0.01)
    monkeypatch.setattr(peers, "PATIENCE", 0.1)
    monkeypatch.setattr(Peers, "_leave", lambda self, reason: pytest.fail(reason))
    store = Store()
    store.values["left/1"] = 1
    watcher = Peers("fit", Signals(), Pulse(60.0), pytest.fail)
    ends = iter([False] * 40 + [True])
    watcher._end = SimpleNamespace(wait=lambda s: time.sleep(0.01) or next(ends))
    watcher._watch(store, 0, {0: "rank 0", 1: "rank 1"}, [1])
    assert store.values["beat/0"] == 40
    assert store.values["left/0"] == 1


def test_how_a_process_ended():
    assert ending(2) == "ended with code 2"
    assert ending(-signal.SIGTERM) == "was killed by SIGTERM"


def trainer_of(rows, steps=5, **val_sets):
    data = SimpleNamespace(train_set=rows, val_sets=val_sets)
    return SimpleNamespace(datamodule=data, max_steps=steps)


def test_processes_with_other_data_are_refused_by_rank(monkeypatch):
    """Each would wait for the other without end."""
    others = {"training rows": 4, "rows of dev": 2, "steps": 5}
    monkeypatch.setattr(peers, "gather_objects", lambda own: [own, others])
    check_alike(trainer_of([0] * 4, dev=[0] * 2))
    with pytest.raises(UserError, match=r"numbers of training rows \(rank 0: 3, rank 1: 4\)"):
        check_alike(trainer_of([0] * 3, dev=[0] * 2))
    with pytest.raises(UserError, match=r"rows of dev \(rank 0: 1, rank 1: 2\)"):
        check_alike(trainer_of([0] * 4, dev=[0]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, None])
def test_a_run_on_two_devices_ends_when_its_second_process_does(tmp_path, number):
    words = ["train", "toy", "smoke", f"runs_dir={tmp_path}", "run_id=r", "trainer.devices=2"]
    words += ["trainer.max_steps=100000", "tracking.wandb=disabled", "num_stages=1"]
    words += ["trainer.stall_seconds=5"] if number is None else []
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.toy", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TOY_HANG": "-1" if number else "10"},
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "toy/smoke/r/metrics.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (second,) = (
        child
        for child in psutil.Process(process.pid).children()
        if "tests.toy" in " ".join(child.cmdline())
    )
    began = time.monotonic()
    if number is not None:
        os.kill(second.pid, number)
    try:
        _, said = process.communicate(timeout=90)
        assert time.monotonic() - began < 75
        assert process.returncode == 2
        assert len(re.findall(rf"^error: .*rank 1 \(process {second.pid}", said, re.M)) == 1
        assert number or re.search(r"waits for step 11 in tests/toy/module\.py:\d+ \(wait\)", said)
        assert "Traceback" not in said
        assert not second.is_running() or second.status() == psutil.STATUS_ZOMBIE
        assert '"state": "failed"' in (tmp_path / "toy/smoke/r/meta.json").read_text()
    finally:
        process.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            second.kill()
