"""Shared set-up: quiet, offline, one thread per process."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def unrendered_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of runs are made but not rendered, which takes most of a tiny run's time.

    For tests that look at something else; an empty file stands in for the picture.
    """
    from common.engine.workspace import Workspace

    def figure(self: Workspace, name: str, figure: Any) -> Path:
        path = self.folder("plots") / f"{name}.png"
        path.write_bytes(b"")
        return path

    monkeypatch.setattr(Workspace, "figure", figure)
