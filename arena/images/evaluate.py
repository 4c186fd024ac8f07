"""Probes of the frozen encoder, for all contestants alike."""

from arena.images.config import Config
from arena.images.data import image_part
from arena.images.module import Contest
from common.encoders.modes import evaluated
from common.engine.workspace import Workspace
from common.families.images.evaluation import frozen_parts, probes, save_items


def evaluate(cfg: Config, module: Contest, workspace: Workspace) -> dict[str, float]:
    """Linear probe, vote of neighbours and geometry; items pair the contestants image by image."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    with evaluated(module, cfg.trainer.accelerator):
        parts = frozen_parts(cfg, module.network.encoder, bank, test, workspace)
    scores = probes(cfg, parts)
    save_items(cfg, scores, workspace)
    return scores.metrics
