"""What DCL has to beat: the pixels, the untrained network, chance."""

from torch import nn

from common.encoders.modes import untrained as as_training_begins
from common.engine.workspace import Workspace
from common.evaluation.features.trivial import majority_class
from common.families.images.evaluation import frozen_parts, knn_items, probes
from projects.dcl.config import Config
from projects.dcl.data import image_part
from projects.dcl.module import DCL


def raw_pixels(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes on the normalised pixels."""
    return _probe(cfg, nn.Flatten(), workspace)


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """Probes on the network as its training begins with it."""
    return _probe(cfg, as_training_begins(lambda: DCL(cfg), cfg.seed).network.encoder, workspace)


def chance(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The bank's most frequent class for every test image."""
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    correct = majority_class(bank.labels.tolist(), test.labels.tolist())
    names = [f"knn{k}_top1" for k in cfg.eval.ks] + ["linear_probe_top1"] * cfg.eval.linear_probe
    for name in names:
        workspace.items(name, correct)
    return dict.fromkeys(names, sum(correct) / len(correct))


def _probe(cfg: Config, encoder: nn.Module, workspace: Workspace) -> dict[str, float]:
    bank, test = image_part(cfg, "bank"), image_part(cfg, "test")
    parts = frozen_parts(cfg, encoder, bank, test, workspace)
    for name, correct in knn_items(cfg, parts).items():
        workspace.items(name, correct.double().tolist())
    return probes(cfg, parts)
