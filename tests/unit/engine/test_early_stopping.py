"""A fit stops after the same validation whether or not it was killed before."""

import math
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from common.engine import checkpoint as ckpt
from common.engine.callbacks import StopWithoutGain
from common.engine.checkpoint import RunCheckpoint, SignedFiles

VALUES = {2: 0.5, 4: 0.9, 6: 0.9, 8: 0.7, 10: 0.8, 12: 1.0, 14: 1.0, 16: 1.0}
STOP = 10  # the third validation without gain after step 4; an equal value is none


class Killed(Exception):
    pass


class Curve(LightningModule):
    """Validation gives `VALUES`."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        return self.weight.sum()

    def validation_step(self, batch, index):
        self.log("val/score", VALUES[self.trainer.global_step])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class KilledAt(Callback):
    def __init__(self, step, hook):
        self.step = step
        setattr(self, hook, self.kill)

    def kill(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Killed


def fit(folder, *callbacks, stop=None):
    """From the newest checkpoint on; the step at which it ended."""
    start, _ = ckpt.newest_intact(folder, validated_every=2)
    stop = stop or StopWithoutGain("val/score", patience=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu", max_steps=16, max_epochs=-1, val_check_interval=2, check_val_every_n_epoch=None,
            num_sanity_val_steps=0, logger=False, enable_progress_bar=False, enable_model_summary=False,
            plugins=[SignedFiles()], default_root_dir=folder,
            callbacks=[stop, *callbacks, RunCheckpoint(folder, 2, monitor="val/score")],
        )  # fmt: skip
        data = DataLoader(torch.zeros(20, 1)), DataLoader(torch.zeros(1, 1))
        trainer.fit(Curve(), *data, ckpt_path=start, weights_only=True)
    return trainer.global_step


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
    """Finding: a checkpoint is written before its validation, which its own count would lack."""
    assert fit(tmp_path / "whole") == STOP
    with pytest.raises(Killed):
        fit(tmp_path / "cut", KilledAt(step, hook))
    assert fit(tmp_path / "cut") == STOP
    assert ckpt.validations(tmp_path / "cut") == ckpt.validations(tmp_path / "whole")


def test_another_patience_of_a_run_that_goes_on_counts(tmp_path):
    assert fit(tmp_path) == STOP
    assert fit(tmp_path, stop=StopWithoutGain("val/score", patience=4)) == 16


def test_smaller_is_better_if_so_said_and_nan_is_no_gain():
    falling, rising = StopWithoutGain("x", 2, "min"), StopWithoutGain("x", 2)
    for value in (0.3, 0.2, math.nan, 0.1):
        falling._count(value)
        rising._count(value)
    assert (falling.waited, rising.waited) == (0, 3)


def test_a_stage_with_another_monitor_is_refused(tmp_path):
    with pytest.raises(ValueError, match="whose monitor is val/score"):
        fit(tmp_path, stop=StopWithoutGain("val/other", 1))
