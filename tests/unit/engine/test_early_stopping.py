"""A fit stops after the same validation whether or not it was killed before."""

import math

import pytest

from common.engine import checkpoint as ckpt
from common.engine.callbacks import StopWithoutGain
from tests.unit.engine.killed_fits import Killed, KilledAt, fit

VALUES = {2: 0.5, 4: 0.9, 6: 0.9, 8: 0.7, 10: 0.8, 12: 1.0, 14: 1.0, 16: 1.0}
STOP = 10  # the third validation without gain after step 4; an equal value is none


def stop(patience=3):
    return StopWithoutGain("val/score", patience)


@pytest.mark.parametrize(
    ("step", "hook"),
    [
        (5, "on_train_batch_end"),  # goes on after the best
        (6, "on_validation_start"),  # saved, not yet validated
        (7, "on_train_batch_end"),  # goes on after one without gain
        (9, "on_train_batch_end"),
        (10, "on_train_end"),  # the last validation is known: nothing is left to do
    ],
)
def test_a_killed_run_stops_where_a_whole_one_does(tmp_path, step, hook):
    """A checkpoint is written before its validation, which its own count would lack."""
    assert fit(tmp_path / "whole", VALUES, stop()) == STOP
    with pytest.raises(Killed):
        fit(tmp_path / "cut", VALUES, stop(), KilledAt(step, hook))
    assert fit(tmp_path / "cut", VALUES, stop()) == STOP
    assert ckpt.validations(tmp_path / "cut") == ckpt.validations(tmp_path / "whole")


def test_another_patience_of_a_run_that_goes_on_counts(tmp_path):
    assert fit(tmp_path, VALUES, stop()) == STOP
    assert fit(tmp_path, VALUES, stop(4)) == 16


def test_smaller_is_better_if_so_said_and_nan_is_no_gain():
    falling, rising = StopWithoutGain("x", 2, "min"), StopWithoutGain("x", 2)
    for value in (0.3, 0.2, math.nan, 0.1):
        falling._count(value)
        rising._count(value)
    assert (falling.waited, rising.waited) == (0, 3)


def test_a_stage_with_another_monitor_is_refused(tmp_path):
    with pytest.raises(ValueError, match="whose monitor is val/score"):
        fit(tmp_path, VALUES, StopWithoutGain("val/other", 1))
