"""What a person sees of long work: lines in a log, a bar in a terminal of any width."""

import pytest

from common.engine import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_time_left_counts_only_what_this_process_did(clock, capsys):
    """A run that goes on at step 900 of 1,000 and makes ten steps in ten seconds needs 90 more."""
    meter = progress.Meter("train", 1000, done=900)
    clock[0] += 10
    meter.update(910)
    assert "train: 910/1000 in 10 s, 90 s left" in capsys.readouterr().err
    meter = progress.Meter("train", 1000)
    clock[0] += 10
    meter.update(10)
    assert "990 s left" in capsys.readouterr().err


def test_nothing_is_promised_before_the_first_unit(clock, capsys):
    meter = progress.Meter("train", 1000, done=900)
    clock[0] += 10
    meter.update(900)
    assert "left" not in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 120])
def test_a_bar_fits_its_terminal(monkeypatch, width):
    """Forty columns hold what is done and the time left; a line that is too long would wrap."""
    monkeypatch.setattr(progress, "_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    meter = progress.Meter("retrieval-cisi documents", 12000)
    meter.update(6000, "loss 1.234 accuracy 0.5678")
    console = progress._Screen(width=width, record=True)
    console.print(meter.bar)
    meter.close()
    lines = console.export_text().rstrip("\n").split("\n")
    assert len(lines) == 1
    assert len(lines[0].rstrip()) <= width
    assert lines[0].startswith("retrieval-ci")
    assert "6000/12000" in lines[0]
    assert ("loss 1.234" in lines[0]) == (width == 120)


def test_many_terms_are_cut_and_counted():
    """A line of a loss with ten views stays a line; the rest is in metrics.csv."""
    terms = {"loss": 1.25, **{f"view_{i}": i / 7 for i in range(9)}}
    shown = progress.shown_terms(terms)
    assert shown.startswith("loss 1.25 view_0 0 view_1 0.1429")
    assert shown.endswith("view_4 0.5714 (+4)")
    assert progress.shown_terms({"loss": 2.0}) == "loss 2"


def test_what_is_tracked_is_neither_changed_nor_left_out(clock, capsys):
    """No result depends on how work is shown, so a change of this file ages none."""
    items = [object() for _ in range(50)]
    for total in (None, 50, 7):
        assert list(progress.track(iter(items), "evaluate", total)) == items
        clock[0] += 11
