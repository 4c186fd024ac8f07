"""The toy project in this process."""

import shutil
from pathlib import Path

import pytest

import tests.toy
import tests.toy.module
from common import config, registry
from common.engine import run


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """`toy(*overrides)` trains it under tmp_path; its configs are a copy that may be edited."""
    configs = tmp_path / "configs"
    shutil.copytree(Path(tests.toy.__file__).parent / "configs", configs)
    monkeypatch.setattr(config, "CONFIG_DIR", configs)
    for place in (registry, run):
        monkeypatch.setattr(place, "load_project", lambda slug: tests.toy)

    def train(*overrides: str) -> Path:
        return run.train("toy", "smoke", [f"runs_dir={tmp_path / 'runs'}", *overrides])

    return train


@pytest.fixture
def broken_at(monkeypatch):
    """`broken_at(stage, step)`: training breaks off there; ``broken_at(None)`` mends it."""
    plain = tests.toy.module.Toy.losses

    def choose(stage: str | None, step: int = 0, error: Exception | None = None) -> None:
        def losses(self, batch):
            folder = Path(self.trainer.checkpoint_callback.folder)
            if folder.name == stage and self.trainer.global_step == step:
                raise error or RuntimeError("power cut")
            return plain(self, batch)

        monkeypatch.setattr(tests.toy.module.Toy, "losses", losses)

    return choose
