"""What the grid has to beat: guessing, and the towers before training."""

import torch

from common.encoders import modes
from common.engine.workspace import Workspace
from common.families.image_text.drawings_evaluation import chance_of, require_pool
from projects.clip_baselines.config import Config
from projects.clip_baselines.evaluate import evaluate_pool
from projects.clip_baselines.module import Rocket


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The model before training."""
    require_pool(cfg)
    with torch.no_grad():
        return evaluate_pool(cfg, modes.untrained(lambda: Rocket(cfg), cfg.seed), workspace)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Expectation of a random ranking and of a random class."""
    return chance_of(untrained(cfg, Workspace(workspace.folder("untrained"))))
