"""The best weights of a run that is killed and goes on are those of a run that is not."""

import math
from types import SimpleNamespace

import pytest

from common.engine import checkpoint as ckpt
from tests.unit.engine.killed_fits import Killed, KilledAt, fit

VALUES = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.6}  # the best is in the middle


@pytest.mark.parametrize(
    ("step", "hook"),
    [
        (4, "on_validation_start"),  # saved, not yet validated
        (5, "on_train_batch_end"),  # validated after it was saved
        (6, "on_validation_start"),
        (7, "on_train_batch_end"),
    ],
)
def test_a_killed_run_keeps_the_best_weights(tmp_path, step, hook):
    fit(tmp_path / "whole", VALUES)
    with pytest.raises(Killed):
        fit(tmp_path / "cut", VALUES, KilledAt(step, hook))
    fit(tmp_path / "cut", VALUES)
    for name in ("whole", "cut"):
        best = ckpt.load(tmp_path / name / "best.ckpt")
        assert best["global_step"] == 4
        assert best["state_dict"]["weight"].item() == 4
        assert ckpt.validations(tmp_path / name) == pytest.approx(VALUES)


def test_a_step_whose_validation_was_cut_off_is_passed_over(tmp_path):
    with pytest.raises(Killed):
        fit(tmp_path, VALUES, KilledAt(4, "on_validation_start"))
    assert ckpt.newest_intact(tmp_path)[0] == tmp_path / "step-00000004.ckpt"
    assert ckpt.newest_intact(tmp_path, 2)[0] == tmp_path / "step-00000002.ckpt"


def test_a_validation_counts_once_it_is_logged(tmp_path):
    """The trainer logs it after the last hook of the validation: a run that was killed in between
    continued behind the step and lacked the rows.
    """
    with pytest.raises(Killed):
        fit(tmp_path, VALUES, KilledAt(4, "on_train_batch_start"))
    assert ckpt.validations(tmp_path) == pytest.approx({2: 0.5})
    assert ckpt.newest_intact(tmp_path, 2)[0] == tmp_path / "step-00000002.ckpt"


def test_what_was_logged_is_synced_before_a_validation_counts(tmp_path, monkeypatch):
    curves, seen = tmp_path / "metrics.csv", []
    curves.touch()
    checkpoint = ckpt.RunCheckpoint(tmp_path, 2, monitor="m", curves=curves)
    monkeypatch.setattr(
        ckpt, "sync", lambda path: seen.append((path, (tmp_path / ckpt.VALIDATIONS).exists()))
    )
    checkpoint.values, checkpoint.is_noted = {2: 0.5}, False
    for _ in range(2):
        checkpoint.on_train_batch_start(SimpleNamespace(is_global_zero=True))
    assert seen == [(curves, False)]
    assert ckpt.validations(tmp_path) == {2: 0.5}


NAN = math.nan
LATE = {2: NAN, 4: NAN, 6: 0.9, 8: 0.7, 10: NAN}


@pytest.mark.parametrize(
    "cut", [None, (5, "on_train_batch_end"), (6, "on_validation_start"), (7, "on_train_batch_end")]
)
def test_a_nan_is_never_the_best(tmp_path, cut):
    """Not the first value either, nor in a run that goes on after it."""
    if cut is not None:
        with pytest.raises(Killed):
            fit(tmp_path, LATE, KilledAt(*cut))
    assert (tmp_path / "best.ckpt").exists() == (cut is not None and cut[0] > 6)
    fit(tmp_path, LATE)
    assert ckpt.load(tmp_path / "best.ckpt")["global_step"] == 6
    assert ckpt.validations(tmp_path) == pytest.approx(LATE, nan_ok=True)


def test_a_run_without_a_number_has_no_best_weights_and_says_so(tmp_path):
    with pytest.warns(UserWarning, match=r"val/score was nan whenever"):
        fit(tmp_path, {2: NAN, 4: NAN})
    assert not (tmp_path / "best.ckpt").exists()


@pytest.mark.parametrize("step", [2, 6])
def test_keeping_one_checkpoint_does_not_lose_the_run(tmp_path, step):
    """The step before stays until the new one is validated, unless there is none before."""
    with pytest.raises(Killed):
        fit(tmp_path, VALUES, KilledAt(step, "on_validation_start"), keep=1)
    start = ckpt.newest_intact(tmp_path, 2)[0]
    assert start == (None if step == 2 else tmp_path / "step-00000004.ckpt")
    fit(tmp_path, VALUES, keep=1)
    assert ckpt.load(tmp_path / "best.ckpt")["global_step"] == 4
    kept = [ckpt.step_of(path) for path in ckpt.saved_checkpoints(tmp_path)]
    assert kept == [6, 8]


def test_leftovers_of_later_steps_push_out_nothing(tmp_path):
    """Files behind the step that a run goes on from are written anew in their time."""
    with pytest.raises(Killed):
        fit(tmp_path, VALUES, KilledAt(6, "on_validation_start"), every=1, keep=3)
    for step in (7, 9):
        (tmp_path / f"step-0000000{step}.ckpt").write_bytes(b"of another life")
    with pytest.raises(Killed):
        fit(tmp_path, VALUES, KilledAt(6, "on_validation_start"), every=1, keep=2)
    kept = [ckpt.step_of(path) for path in ckpt.saved_checkpoints(tmp_path)]
    assert kept == [5, 6, 7, 9]
