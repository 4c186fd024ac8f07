"""What the paper measures: probes of the frozen encoder, with the untrained one as reference."""

from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.families.images.evaluation import frozen_parts, probes, save_items, show_features
from projects.new_project.config import Config
from projects.new_project.data import image_part
from projects.new_project.module import NewProject


def evaluate(cfg: Config, module: NewProject, workspace: Workspace) -> dict[str, float]:
    """Vote of neighbours, linear probe and geometry of the features; items pair the arms image by image."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    with evaluated(module, cfg.trainer.accelerator):
        parts = frozen_parts(cfg, module.network.encoder, bank, test, workspace)
        start = untrained(lambda: NewProject(cfg), cfg.seed, like=module).network.encoder
        before = probes(cfg, frozen_parts(cfg, start, bank, test, workspace), linear=False)
    scores, primary = probes(cfg, parts), f"knn{cfg.eval.items_k}_top1"
    save_items(cfg, scores, workspace)
    show_features(workspace, parts, bank, test, "test features")
    return scores.metrics | {f"untrained_{primary}": before.metrics[primary]}
