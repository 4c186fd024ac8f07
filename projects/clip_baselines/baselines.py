"""What the grid has to beat: guessing, and the towers before training."""

import torch

from common.config import UserError
from common.encoders import modes
from common.engine.workspace import Workspace
from projects.clip_baselines.config import Config
from projects.clip_baselines.evaluate import evaluate_pool
from projects.clip_baselines.module import Rocket


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The model before training."""
    if cfg.data.source != "pool":
        raise UserError("the baselines are of data.source=pool")
    with torch.no_grad():
        return evaluate_pool(cfg, modes.untrained(lambda: Rocket(cfg), cfg.seed), workspace)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Expectation of a random ranking and of a random class."""
    found = untrained(cfg, Workspace(workspace.folder("untrained")))
    return {name.removesuffix("_chance"): v for name, v in found.items() if "_chance" in name}
