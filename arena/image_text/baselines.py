"""What a contestant has to beat without training: the untrained towers, chance."""

import torch

from arena.image_text.config import Config
from arena.image_text.evaluate import evaluate
from arena.image_text.module import Contest
from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from projects.laclip.scenes import nearest_captions, raw_pixels

__all__ = ["chance", "nearest_captions", "raw_pixels", "untrained"]


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The towers before training."""
    build = lambda: Contest(cfg)  # noqa: E731
    with torch.no_grad():
        return evaluate(cfg, as_training_begins(build, cfg.seed), workspace, build)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """A random ranking."""
    metrics = untrained(cfg, workspace)
    return {name: metrics[f"{name}_chance"] for name in metrics if f"{name}_chance" in metrics}
