"""A fit that waits says for what; nothing else counts as waiting."""

import threading
from types import SimpleNamespace

import pytest

from common.engine.lifecycle import stalls
from common.engine.lifecycle.stalls import Pulse, in_collective, place, stack

FIRST = SimpleNamespace(global_step=0)


@pytest.fixture
def clock(monkeypatch):
    """`clock.now`, which the module sees."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(stalls, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def steps(pulse, clock, number, seconds=1.0):
    """Steps that take equally long as the batches between them."""
    for step in range(number):
        trainer = SimpleNamespace(global_step=step)
        pulse.on_train_batch_start(trainer, None, None, step)
        clock.now += seconds
        pulse.on_train_batch_end(trainer)
        clock.now += seconds


def test_a_fit_is_stalled_after_its_time_and_not_before_its_second_step(clock):
    pulse = Pulse(20.0)
    steps(pulse, clock, 1)
    clock.now += 1000.0
    assert pulse.stalled() is None
    pulse.on_train_batch_start(FIRST, None, None, 1)
    clock.now += 19.0
    assert pulse.stalled() is None
    clock.now += 1.0
    assert pulse.stalled() == 20.0
    assert pulse.what == "step 1"


def test_slow_steps_are_no_stall(clock):
    pulse = Pulse(20.0)
    steps(pulse, clock, 3, seconds=10.0)
    clock.now += 80.0
    assert pulse.stalled() is None
    clock.now += 10.0
    assert pulse.stalled() == 100.0


@pytest.mark.parametrize("name", ["on_validation_start", "on_save_checkpoint"])
def test_validations_and_checkpoints_take_their_time_and_steps_after_them_count_again(clock, name):
    pulse = Pulse(20.0)
    steps(pulse, clock, 3)
    getattr(pulse, name)(FIRST)
    clock.now += 1000.0
    assert pulse.stalled() is None
    pulse.on_validation_end(FIRST)
    assert pulse.longest == 1.0
    clock.now += 20.0
    assert pulse.stalled() == 20.0


def test_a_process_that_was_stopped_counts_anew(clock):
    pulse = Pulse(20.0)
    steps(pulse, clock, 3)
    clock.now += 1000.0
    pulse.restart()
    assert pulse.stalled() is None


def test_the_report_names_what_is_waited_for_and_where(capsys):
    """Once for a stall, and again when its time has doubled."""
    pulse, lines = Pulse(0.02), []
    for step in range(2):
        pulse.on_train_batch_start(SimpleNamespace(global_step=step), None, None, step)
        pulse.on_train_batch_end(SimpleNamespace(global_step=step))
    pulse.on_train_start(FIRST, None)
    while len(lines) < 2:
        lines += capsys.readouterr().err.splitlines()
    pulse.stop()
    # the first may come while the thread of the fit still starts this one
    assert lines[-1].startswith("waiting for the data of step 2 since 0 s, in tests/unit/engine/")


def test_the_line_is_ours_and_the_function_the_innermost():
    started, end = threading.Event(), threading.Event()

    def reads():
        started.set()
        end.wait()

    thread = threading.Thread(target=reads)
    thread.start()
    started.wait()
    while "wait" not in (where := place(stack(thread))):
        pass
    assert not in_collective(stack(thread))
    end.set()
    thread.join()
    assert where.startswith("tests/unit/engine/lifecycle/test_stalls.py:")
    assert place(stack(thread)) == "a thread that has ended"
