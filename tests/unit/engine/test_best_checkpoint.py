"""The best weights of a run that is killed and goes on are those of a run that is not."""

import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from common.engine import checkpoint as ckpt
from common.engine.checkpoint import RunCheckpoint, SignedFiles

VALUES = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.6}  # the best is in the middle


class Killed(Exception):
    pass


class Counter(LightningModule):
    """Its weight is the number of steps made; validation gives `VALUES`."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        return -self.weight.sum()  # a gradient of -1, so that a step adds 1

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


def fit(folder, *callbacks):
    """From the newest checkpoint on."""
    start, _ = ckpt.newest_intact(folder, validated_every=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu", max_steps=8, max_epochs=-1, val_check_interval=2, check_val_every_n_epoch=None,
            num_sanity_val_steps=0, logger=False, enable_progress_bar=False, enable_model_summary=False,
            plugins=[SignedFiles()], default_root_dir=folder,
            callbacks=[RunCheckpoint(folder, 2, monitor="val/score"), *callbacks],
        )  # fmt: skip
        data = DataLoader(torch.zeros(20, 1)), DataLoader(torch.zeros(1, 1))
        trainer.fit(Counter(), *data, ckpt_path=start, weights_only=True)


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
    fit(tmp_path / "whole")
    with pytest.raises(Killed):
        fit(tmp_path / "cut", KilledAt(step, hook))
    fit(tmp_path / "cut")
    for name in ("whole", "cut"):
        best = ckpt.load(tmp_path / name / "best.ckpt")
        assert best["global_step"] == 4
        assert best["state_dict"]["weight"].item() == 4
        assert ckpt.validations(tmp_path / name) == pytest.approx(VALUES)


def test_a_step_whose_validation_was_cut_off_is_passed_over(tmp_path):
    with pytest.raises(Killed):
        fit(tmp_path, KilledAt(4, "on_validation_start"))
    assert ckpt.newest_intact(tmp_path)[0] == tmp_path / "step-00000004.ckpt"
    assert ckpt.newest_intact(tmp_path, 2)[0] == tmp_path / "step-00000002.ckpt"
