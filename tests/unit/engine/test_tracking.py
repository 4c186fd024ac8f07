import lightning.pytorch.loggers
import pytest

from common.config import ExperimentConfig, TrackingConfig, TrainerConfig
from common.engine import Workspace, tracking

CONFIG = ExperimentConfig(
    trainer=TrainerConfig(max_steps=1), tracking=TrackingConfig(wandb="offline")
)


class Held:
    """A logger whose run is held by the service for a while."""

    refusals, message = 2, "run ID r is in use"

    def __init__(self, **options):
        self.tries = 0

    @property
    def experiment(self):
        self.tries += 1
        if self.tries <= self.refusals:
            raise RuntimeError(self.message)
        return "run"


@pytest.fixture
def held(monkeypatch):
    monkeypatch.setattr(lightning.pytorch.loggers, "WandbLogger", Held)
    monkeypatch.setattr(tracking.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return monkeypatch


def test_a_run_that_is_still_held_is_waited_for(held, tmp_path):
    assert tracking.wandb_logger(CONFIG, Workspace(tmp_path)).tries == 3


def test_a_run_that_stays_held_and_other_errors_are_raised(held, tmp_path):
    held.setattr(Held, "refusals", 1000)
    with pytest.raises(RuntimeError, match="in use"):
        tracking.wandb_logger(CONFIG, Workspace(tmp_path))
    held.setattr(Held, "message", "no space left")
    with pytest.raises(RuntimeError, match="no space"):
        tracking.wandb_logger(CONFIG, Workspace(tmp_path))
