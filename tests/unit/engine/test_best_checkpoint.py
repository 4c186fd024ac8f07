"""The best weights of a run that is killed and goes on are those of a run that is not."""

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
